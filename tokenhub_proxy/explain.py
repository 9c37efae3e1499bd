"""What would happen to a call, without making it: the same checks in the same order."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import orjson

from tokenhub_proxy import calls, keys
from tokenhub_proxy.dialects import Asking
from tokenhub_proxy.errors import InsufficientQuota, InvalidApiKey, InvalidRequest, IpNotAllowed, ProxyError
from tokenhub_proxy.keys import Key
from tokenhub_proxy.prices import format_usd
from tokenhub_proxy.relay import Relay
from tokenhub_proxy.routes import OUTPUT_MAX_ASSUMED, Route, Target

EXAMPLE = {"messages": [{"role": "user", "content": "Hello"}]}


def explain(relay: Relay, key: Key, arguments: Mapping[str, Any]) -> dict[str, Any]:
    """The targets in order, the translated body, the hold and the limits left, or the refusal.

    `arguments`: `model`, and optionally `ip` (a client's address) and `body` (JSON text). Nothing
    is sent, held or counted.
    """
    told: dict[str, Any] = {"key": key.name, "account": key.account, "model": arguments.get("model")}
    try:
        _explain(relay, key, arguments, told)
    except ProxyError as error:
        told["refusal"] = {"status": error.http_status, **error.fields("")}
        told["refusal"].pop("request_id")
        if error.reason:
            told["refusal"]["reason"] = error.reason
    return told


def _explain(relay: Relay, key: Key, arguments: Mapping[str, Any], told: dict[str, Any]) -> None:
    now = relay.clock()
    if not key.works(key.digest, now):
        raise InvalidApiKey("revoked" if key.revoked_at is not None else "expired")
    _check_address(key, arguments.get("ip"))
    call = _call(key, arguments)
    route = relay.serving.routes.find(call.model, key.scope)
    call = calls.with_defaults(call, route.defaults)
    told["limits"] = relay.limits.standing(key.id, key.scope, relay.monotonic())
    left = relay.left(key, now)
    hold, output_max = route.bound(call, left)
    told["hold_usd"] = format_usd(hold)
    if output_max is not None:
        told["output_max_sent"] = output_max
    told["left_usd"] = None if left is None else format_usd(left)
    told["targets"] = [_target(relay, target, route, call, output_max) for target in route.order(0.0)]
    if left is not None and hold > left:
        raise InsufficientQuota(
            f"The call can cost up to {format_usd(hold)} USD; {format_usd(max(0, left))} USD are left."
        )


def _check_address(key: Key, ip: object) -> None:
    if ip is None or not key.scope.ips:
        return
    address = keys.parse_address(str(ip))
    if address is None or address not in keys.networks(key.scope.ips):
        raise IpNotAllowed("This key may not be used from your address.", reason=str(ip))


def _call(key: Key, arguments: Mapping[str, Any]) -> calls.Call:
    text = arguments.get("body")
    if text is None:
        body: dict[str, Any] = {**EXAMPLE}
    else:
        try:
            body = orjson.loads(str(text))
        except orjson.JSONDecodeError as error:
            raise InvalidRequest(f"The body is not valid JSON: {error.msg}.") from None
        if not isinstance(body, dict):
            raise InvalidRequest("The body must be a JSON object.")
    if arguments.get("model"):
        body["model"] = arguments["model"]
    endpoint: calls.Endpoint = "embeddings" if "input" in body and "messages" not in body else "chat"
    return calls.parse(orjson.dumps(body), endpoint, owner=key.account)


def _target(
    relay: Relay, target: Target, route: Route, call: calls.Call, output_max: int | None
) -> dict[str, Any]:
    told: dict[str, Any] = {
        "upstream": target.upstream.name,
        "model": target.model,
        "priority": target.priority,
        "weight": target.weight,
    }
    asking = Asking(
        target=target,
        credential="[credential]",
        at_s=relay.clock(),
        output_max=output_max,
        output_default=route.output_max or OUTPUT_MAX_ASSUMED,
    )
    try:
        target.check(call)
        outgoing = relay.dialects[target.upstream.dialect].request(call, asking)
    except ProxyError as error:
        return told | {"refusal": error.message}
    return told | {
        "url": target.upstream.base_url + outgoing.path,
        "body": orjson.loads(outgoing.body),
        "dropped": list(outgoing.dropped),
    }
