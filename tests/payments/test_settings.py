"""The config's section `payments`: what it makes, and what it refuses."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tokenhub_proxy.config import Config, ConfigError, describe, load
from tokenhub_proxy.payments.cryptopay import TEST_BASE_URL, CryptoPay
from tokenhub_proxy.payments.tron import Tron
from tokenhub_proxy.payments.yookassa import BASE_URL, Receipt, YooKassa

SECRET = "live_" + "s" * 40
ADDRESS = "TR7NHqjeKQxGTCi8q8ZY4pL8otSzgjLj6t"
BACK = "return_url: https://hub.example/orders/{order}"


def read(section: str, **environ: str) -> Config:
    text = f"payments:\n  {BACK}\n  {section}\n"
    return load(text, name="c.yaml", folder=Path("etc"), environ=environ, read_file=Path.read_text)


def test_each_provider_is_made_with_its_defaults() -> None:
    made = read(
        f'yookassa: {{shop_id: "1", secret_key: env:KEY}}\n  cryptopay: {{token: env:KEY, test: true}}\n'
        f"  tron: {{address: {ADDRESS}}}\n  operator: {{fee_percent: 2.5}}",
        KEY=SECRET,
    ).payments
    assert made is not None
    back = "https://hub.example/orders/{order}"
    assert made.providers["yookassa"] == YooKassa("1", SECRET, back, base_url=BASE_URL)
    assert made.providers["cryptopay"] == CryptoPay(SECRET, back, base_url=TEST_BASE_URL, test=True)
    assert made.providers["tron"] == Tron(ADDRESS)
    assert made.fees == {"yookassa": 0, "cryptopay": 0, "tron": 0, "operator": 25_000}
    assert (made.minimum, made.maximum, made.rate_fixed) == (10**9, 1000 * 10**9, None)
    assert made.rate_url == "https://www.cbr.ru/scripts/XML_daily.asp"


def test_a_fixed_rate_is_exact_and_a_receipt_has_its_codes() -> None:
    made = read(
        "rate: {fixed: 95.25, markup_percent: 1.5}\n"
        f'  yookassa: {{shop_id: "1", secret_key: {SECRET}, receipt: {{vat_code: 4}}}}'
    ).payments
    assert made is not None
    assert (made.rate_fixed, made.rate_url, made.markup) == (95_250_000, None, 15_000)
    assert made.providers["yookassa"].receipt == Receipt(4)


def test_a_provider_whose_variable_is_not_set_is_left_out() -> None:
    config = read('yookassa: {shop_id: "1", secret_key: env:NOT_SET}')
    assert config.payments is not None
    assert config.payments.providers == {}
    assert any("the provider is left out" in line for line in config.warnings)


def test_a_test_shop_that_is_not_called_one_is_warned_about() -> None:
    config = read(f'yookassa: {{shop_id: "1", secret_key: test_{"s" * 40}}}')
    assert any("test is not true" in line for line in config.warnings)


@pytest.mark.parametrize(
    ("section", "told"),
    [
        ('yookassa: {shop_id: "1", secret_key: short}', "less than 32 characters"),
        ('yookassa: {shop_id: "1"}', "payments.yookassa.secret_key: missing"),
        (f"yookassa: {{secret_key: {SECRET}}}", "payments.yookassa.shop_id: missing"),
        (f'yookassa: {{shop_id: "1", secret_key: {SECRET}, methods: [cash]}}', "must be one of bank_card"),
        (f'yookassa: {{shop_id: "1", secret_key: {SECRET}, fee_percent: 51}}', "percentage from 0 to 50"),
        (f'yookassa: {{shop_id: "1", secret_key: {SECRET}, receipt: {{}}}}', "vat_code: missing"),
        ("cryptopay: {}", "payments.cryptopay.token: missing"),
        ("tron: {}", "payments.tron.address: missing"),
        ("tron: {address: TR7NHqjeKQxGTCi8q8ZY4pL8otSzgjLj6u}", "has a slip in it"),
        ("rate: {fixed: 95.1234567}", "at most 6 decimals"),
        ("rate: {fixed: 0}", "more than nothing"),
        ("rate: {fixed: 95, url: https://x.example/}", "excludes fixed"),
        ("minimum_usd: 5.00\n  maximum_usd: 4.00", "not more than maximum_usd"),
        ("yookasa: {}", 'did you mean "yookassa"?'),
    ],
)
def test_what_is_wrong_is_told(section: str, told: str) -> None:
    with pytest.raises(ConfigError) as caught:
        read(section)
    assert told in str(caught.value)
    assert SECRET not in str(caught.value)


def test_where_clients_come_back_to_has_to_be_said() -> None:
    text = f'payments: {{yookassa: {{shop_id: "1", secret_key: {SECRET}}}}}'
    with pytest.raises(ConfigError, match="needs payments.return_url"):
        load(text, name="c.yaml", folder=Path("etc"), environ={}, read_file=Path.read_text)
    with pytest.raises(ConfigError, match="must hold {order}"):
        load(
            "payments: {return_url: https://x.example/}", name="c", folder=Path(), environ={},
            read_file=Path.read_text,
        )  # fmt: skip


def test_check_tells_who_takes_money() -> None:
    config = read(f'yookassa: {{shop_id: "1", secret_key: {SECRET}, test: true}}\n  operator: {{}}')
    assert "payments  yookassa (test), operator" in describe.describe(config)
    assert describe.summary(config)["payments"] == ["yookassa (test)", "operator"]


def test_no_secret_is_in_a_config_s_repr() -> None:
    config = read(f'yookassa: {{shop_id: "1", secret_key: {SECRET}}}\n  cryptopay: {{token: {SECRET}}}')
    assert SECRET not in repr(config)


def test_who_takes_no_payments_loads_none_of_their_code() -> None:
    """Not even that of the books."""
    program = (
        "import sys; import tokenhub_proxy.serve; "
        "print([name for name in sys.modules if '.payments.' in name or '.ledger.order' in name])"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"
