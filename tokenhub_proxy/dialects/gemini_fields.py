"""What becomes of each field of an OpenAI request at Gemini."""

from __future__ import annotations

from collections.abc import Mapping

from tokenhub_proxy.dialects.fields import NO_EQUIVALENT, Fate, caching

FIELDS: Mapping[str, Fate] = {
    "model": Fate("mapped", "in the path"),
    "messages": Fate("mapped", "systemInstruction and contents; roles merged, tool results by name and id"),
    "stream": Fate("mapped", "streamGenerateContent"),
    "stream_options": Fate("mapped", "usage is always known, and said where asked"),
    "max_tokens": Fate("mapped", "generationConfig.maxOutputTokens"),
    "max_completion_tokens": Fate("mapped", "generationConfig.maxOutputTokens"),
    "max_output_tokens": Fate("mapped", "generationConfig.maxOutputTokens"),
    "temperature": Fate("mapped", "generationConfig.temperature"),
    "top_p": Fate("mapped", "generationConfig.topP"),
    "top_k": Fate("mapped", "generationConfig.topK"),
    "stop": Fate("mapped", "generationConfig.stopSequences"),
    "n": Fate("mapped", "generationConfig.candidateCount"),
    "seed": Fate("mapped", "generationConfig.seed"),
    "presence_penalty": Fate("mapped", "generationConfig.presencePenalty"),
    "frequency_penalty": Fate("mapped", "generationConfig.frequencyPenalty"),
    "logprobs": Fate("mapped", "generationConfig.responseLogprobs"),
    "top_logprobs": Fate("mapped", "generationConfig.logprobs"),
    "tools": Fate("mapped", "functionDeclarations; strict as mode VALIDATED, else reported"),
    "tool_choice": Fate("mapped", "toolConfig.functionCallingConfig"),
    "response_format": Fate(
        "mapped", "responseMimeType and responseJsonSchema; refused beside tools where the model can't"
    ),
    "reasoning_effort": Fate("mapped", "generationConfig.thinkingConfig; reported where it can't be"),
    "safety_settings": Fate("mapped", "Gemini's own: safetySettings"),
    "safetySettings": Fate("mapped", "Gemini's own"),
    "cached_content": Fate("mapped", "Gemini's own: cachedContent"),
    "cachedContent": Fate("mapped", "Gemini's own"),
    "generation_config": Fate("mapped", "Gemini's own, but for its limits; the fields above stand over it"),
    "generationConfig": Fate("mapped", "Gemini's own, but for its limits; the fields above stand over it"),
    "parallel_tool_calls": Fate("dropped", "has no equivalent", (True,)),
    "user": Fate("dropped", "has no equivalent"),
    "safety_identifier": Fate("dropped", "has no equivalent"),
    "metadata": Fate("dropped", "has no equivalent", ({},)),
    "service_tier": Fate("dropped", "has no equivalent", ("auto", "default")),
    "best_of": Fate("refused", "the upstream can't choose among answers", (1,)),
    **NO_EQUIVALENT,
    **caching("caching is implicit"),
}

EMBEDDING_FIELDS: Mapping[str, Fate] = {
    "model": Fate("mapped", "in the path"),
    "input": Fate("mapped", "batchEmbedContents, one request for each text; token lists are refused"),
    "dimensions": Fate("mapped", "outputDimensionality"),
    "encoding_format": Fate("mapped", "base64 is made here"),
    "task_type": Fate("mapped", "Gemini's own: taskType"),
    "taskType": Fate("mapped", "Gemini's own"),
    "user": Fate("dropped", "has no equivalent"),
}
