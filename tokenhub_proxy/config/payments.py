"""The config's section `payments`: who takes money, at which rate, and for which fee."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

from tokenhub_proxy.config import values
from tokenhub_proxy.config.nodes import Node
from tokenhub_proxy.config.secrets import Secrets
from tokenhub_proxy.config.walk import Walk

if TYPE_CHECKING:
    from tokenhub_proxy.payments import Provider
    from tokenhub_proxy.payments.cryptopay import CryptoPay
    from tokenhub_proxy.payments.operator import Operator
    from tokenhub_proxy.payments.settings import Settings
    from tokenhub_proxy.payments.tron import Tron
    from tokenhub_proxy.payments.yookassa import Receipt, YooKassa

# Which options there are, by section; the table in `config` joins those of all sections.
OPTIONS: Mapping[str, tuple[str, ...]] = {
    "payments": (
        "return_url", "minimum_usd", "maximum_usd", "rate", "yookassa", "cryptopay", "tron", "operator",
    ),
    "rate_rub": ("fixed", "url", "markup_percent"),
    "yookassa": (
        "shop_id", "secret_key", "base_url", "test", "methods", "fee_percent", "check_address", "receipt",
    ),
    "receipt": ("vat_code", "payment_subject", "payment_mode"),
    "cryptopay": ("token", "base_url", "test", "assets", "fee_percent", "expires"),
    "tron": ("address", "contract", "api_key", "base_url", "test", "fee_percent"),
    "operator": ("instructions", "fee_percent"),
}  # fmt: skip

CBR_URL = "https://www.cbr.ru/scripts/XML_daily.asp"
_LEFT_OUT = "; the provider is left out until it is"
# What Crypto Pay takes: from a second to 31 days.
EXPIRES_MAX_S = 2_678_400
_ASSETS = ("USDT", "USDC")
VAT_CODE_MAX = 12


def read_payments(walk: Walk, secrets: Secrets, node: Node | None) -> Settings | None:
    """What the section says, or None without one. Without it, no code of payments is even imported."""
    if node is None:
        return None
    from tokenhub_proxy.payments.settings import MAXIMUM_NANOS, MINIMUM_NANOS, Settings

    fields = walk.fields(node, OPTIONS["payments"])
    minimum, maximum = walk.money(fields.get("minimum_usd")), walk.money(fields.get("maximum_usd"))
    minimum = MINIMUM_NANOS if minimum is None else minimum
    maximum = MAXIMUM_NANOS if maximum is None else maximum
    if minimum <= 0 or maximum < minimum:
        walk.complain(node, "minimum_usd must be more than nothing and not more than maximum_usd")
    fixed, url, markup = _rate(walk, fields.get("rate"))
    reader = _Reader(walk, secrets, _return_url(walk, fields.get("return_url")))
    reader.read(fields)
    return Settings(
        providers=reader.providers, fees=reader.fees, minimum=minimum, maximum=maximum, rate_fixed=fixed,
        rate_url=url, markup=markup,
    )  # fmt: skip


def _return_url(walk: Walk, node: Node | None) -> str | None:
    def parse(text: str) -> str:
        if "{order}" not in text:
            raise ValueError("must hold {order}, in whose place the order's id stands")
        values.base_url(text.replace("{order}", "order").partition("?")[0])
        return text

    return walk.parsed(node, parse)


def _rate(walk: Walk, node: Node | None) -> tuple[int | None, str | None, int]:
    """A fixed rate, or where it is read, and the markup."""
    if node is None:
        return None, CBR_URL, 0
    fields = walk.fields(node, OPTIONS["rate_rub"])
    if "fixed" in fields and "url" in fields:
        walk.complain(fields["url"], "excludes fixed: give one or the other")
    fixed = walk.parsed(fields.get("fixed"), values.millionths)
    if fixed == 0:
        walk.complain(fields["fixed"], "must be more than nothing")
    url = walk.parsed(fields.get("url"), values.rate_url)
    markup = walk.parsed(fields.get("markup_percent"), values.percent) or 0
    return fixed, None if "fixed" in fields else url or CBR_URL, markup


class _Reader:
    """Reads the providers. One whose secret is an `env:` variable that is not set is left out."""

    def __init__(self, walk: Walk, secrets: Secrets, return_url: str | None) -> None:
        self._walk = walk
        self._secrets = secrets
        self._return_url = return_url
        self.providers: dict[str, Provider] = {}
        self.fees: dict[str, int] = {}

    def read(self, fields: Mapping[str, Node]) -> None:
        kinds: Mapping[str, Callable[[Node, Mapping[str, Node]], Provider | None]] = {
            "yookassa": self._yookassa,
            "cryptopay": self._cryptopay,
            "tron": self._tron,
            "operator": self._operator,
        }
        for name, read in kinds.items():
            if name not in fields:
                continue
            options = self._walk.fields(fields[name], OPTIONS[name])
            self.fees[name] = self._walk.parsed(options.get("fee_percent"), values.percent) or 0
            provider = read(fields[name], options)
            if provider is not None:
                self.providers[name] = provider

    def _yookassa(self, node: Node, options: Mapping[str, Node]) -> YooKassa | None:
        from tokenhub_proxy.payments.yookassa import BASE_URL, METHODS, YooKassa

        walk = self._walk
        shop_id = walk.parsed(options.get("shop_id"), values.option)
        secret = self._secret(node, options, "secret_key")
        methods = walk.texts(options.get("methods"), lambda text: _one_of(text, METHODS))
        test = bool(walk.boolean(options.get("test")))
        if shop_id is None and "shop_id" not in options and node.kind == "mapping":
            walk.missing(node, "shop_id")
        if secret is not None and secret.startswith("test_") and not test:
            walk.warn(
                node, "the key is a test shop's, but test is not true: its payments will not be credited"
            )
        base_url = walk.parsed(options.get("base_url"), values.base_url) or BASE_URL
        check_address = bool(walk.boolean(options.get("check_address")))
        receipt = self._receipt(options.get("receipt"))
        return_url = self._needs_return_url(node)
        if shop_id is None or secret is None or return_url is None:
            return None
        return YooKassa(
            shop_id, secret, return_url, base_url=base_url, test=test,
            methods=methods or ("bank_card", "sbp"), check_address=check_address, receipt=receipt,
        )  # fmt: skip

    def _receipt(self, node: Node | None) -> Receipt | None:
        from tokenhub_proxy.payments.yookassa import Receipt

        if node is None:
            return None
        walk = self._walk
        options = walk.fields(node, OPTIONS["receipt"], required=("vat_code",))
        made = Receipt(walk.integer(options.get("vat_code"), 1, VAT_CODE_MAX) or 1)
        subject = walk.parsed(options.get("payment_subject"), values.option)
        mode = walk.parsed(options.get("payment_mode"), values.option)
        return Receipt(made.vat_code, subject or made.payment_subject, mode or made.payment_mode)

    def _cryptopay(self, node: Node, options: Mapping[str, Node]) -> CryptoPay | None:
        from tokenhub_proxy.payments.cryptopay import BASE_URL, TEST_BASE_URL, CryptoPay

        walk = self._walk
        token = self._secret(node, options, "token")
        test = bool(walk.boolean(options.get("test")))
        assets = walk.texts(options.get("assets"), lambda text: _one_of(text, _ASSETS))
        base_url = walk.parsed(options.get("base_url"), values.base_url)
        expires = walk.integer(options.get("expires"), 60, EXPIRES_MAX_S)
        return_url = self._needs_return_url(node)
        if token is None or return_url is None:
            return None
        return CryptoPay(
            token, return_url, base_url=base_url or (TEST_BASE_URL if test else BASE_URL), test=test,
            assets=assets or ("USDT",), expires_s=expires or 3600,
        )  # fmt: skip

    def _tron(self, node: Node, options: Mapping[str, Node]) -> Tron | None:
        from tokenhub_proxy.payments.tron import BASE_URL, CONTRACT, Tron, check_address

        walk = self._walk
        address = walk.parsed(options.get("address"), check_address)
        contract = walk.parsed(options.get("contract"), check_address)
        api_key = (
            self._secrets.read(options["api_key"], str, "; the index is asked without a key")
            if "api_key" in options
            else None
        )
        base_url = walk.parsed(options.get("base_url"), values.base_url)
        test = bool(walk.boolean(options.get("test")))
        if "address" not in options and node.kind == "mapping":
            walk.missing(node, "address")
        if address is None:
            return None
        return Tron(address, api_key or "", base_url or BASE_URL, contract or CONTRACT, test)

    def _operator(self, node: Node, options: Mapping[str, Node]) -> Operator:
        from tokenhub_proxy.payments.operator import Operator

        return Operator(self._walk.parsed(options.get("instructions"), values.sentence) or "")

    def _secret(self, node: Node, options: Mapping[str, Node], name: str) -> str | None:
        if name not in options:
            if node.kind == "mapping":
                self._walk.missing(node, name)
            return None
        return self._secrets.read(options[name], values.payment_secret, _LEFT_OUT)

    def _needs_return_url(self, node: Node) -> str | None:
        if self._return_url is None:
            self._walk.complain(node, "needs payments.return_url, where clients come back to")
        return self._return_url


def _one_of(text: str, names: tuple[str, ...]) -> str:
    if text not in names:
        raise ValueError(f"must be one of {', '.join(names)}")
    return text
