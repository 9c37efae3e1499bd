"""What becomes of each field of an OpenAI request at Bedrock's Converse and its embedding models."""

from __future__ import annotations

from collections.abc import Mapping

from tokenhub_proxy.dialects.fields import NO_EQUIVALENT, ONE_PLAIN_CHOICE, Fate, caching

FIELDS: Mapping[str, Fate] = {
    "model": Fate("mapped", "in the path"),
    "messages": Fate("mapped", "system and messages; roles merged, tool results first"),
    "stream": Fate("mapped", "converse-stream"),
    "stream_options": Fate("mapped", "usage is always known, and said where asked"),
    "max_tokens": Fate("mapped", "inferenceConfig.maxTokens"),
    "max_completion_tokens": Fate("mapped", "inferenceConfig.maxTokens"),
    "max_output_tokens": Fate("mapped", "inferenceConfig.maxTokens"),
    "temperature": Fate(
        "mapped", "inferenceConfig.temperature; above 1 it is 1 and reported; reported where refused"
    ),
    "top_p": Fate("mapped", "inferenceConfig.topP; reported where the model refuses it"),
    "top_k": Fate("mapped", "additionalModelRequestFields, by family; reported where there is none"),
    "stop": Fate("mapped", "inferenceConfig.stopSequences; blank ones are reported"),
    "tools": Fate("mapped", "toolConfig.tools; strict where the model has it, else reported"),
    "tool_choice": Fate("mapped", "toolConfig.toolChoice; reported where the model can't be told"),
    "response_format": Fate(
        "mapped", "outputConfig.textFormat, else a forced tool; json_object is a hint, reported"
    ),
    "reasoning_effort": Fate(
        "mapped", "additionalModelRequestFields, by family; reported where there is none"
    ),
    "thinking": Fate("mapped", "Anthropic's own, in additionalModelRequestFields"),
    "service_tier": Fate("mapped", "serviceTier.type: default, priority, flex, reserved"),
    "cache_control": Fate("mapped", "on parts, messages and tools: a cachePoint behind them"),
    "guardrailConfig": Fate("passed", "Bedrock's own"),
    "requestMetadata": Fate("passed", "Bedrock's own"),
    "performanceConfig": Fate("passed", "Bedrock's own"),
    "promptVariables": Fate("passed", "Bedrock's own"),
    "additionalModelRequestFields": Fate("mapped", "Bedrock's own; stands over what we would say there"),
    "additionalModelResponseFieldPaths": Fate("passed", "Bedrock's own"),
    "parallel_tool_calls": Fate("dropped", "has no equivalent", (True,)),
    "user": Fate("dropped", "has no equivalent"),
    "safety_identifier": Fate("dropped", "has no equivalent"),
    "metadata": Fate("dropped", "has no equivalent", ({},)),
    **NO_EQUIVALENT,
    **ONE_PLAIN_CHOICE,
    **caching("caching is by cache_control marks"),
}

EMBEDDING_FIELDS: Mapping[str, Fate] = {
    "model": Fate("mapped", "in the path"),
    "input": Fate("mapped", "one call for each text or each 96 of them; token lists are refused"),
    "dimensions": Fate(
        "mapped", "dimensions, output_dimension or embeddingDimension; reported where there is none"
    ),
    "encoding_format": Fate("mapped", "base64 is made here"),
    "normalize": Fate("passed", "Titan's own"),
    "input_type": Fate("passed", "Cohere's own; search_document where it is not given"),
    "truncate": Fate("passed", "Cohere's own"),
    "embeddingPurpose": Fate("passed", "Nova's own; GENERIC_INDEX where it is not given"),
    "user": Fate("dropped", "has no equivalent"),
}
