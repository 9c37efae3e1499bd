"""Keys: minted and recognised, one credential a request, and where a client really is."""

from __future__ import annotations

import hashlib
import ipaddress
import random
import re
import zlib
from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tokenhub_proxy import keys
from tokenhub_proxy.errors import InvalidApiKey
from tokenhub_proxy.keys import (
    ALPHABET,
    KEY_PATTERN,
    Key,
    Networks,
    Scope,
    bearer,
    client_address,
    mint,
    parse_address,
    parse_network,
    period_name,
    well_formed,
)

randomness = st.binary(min_size=32, max_size=64)


# --- minting


def test_the_key_of_32_zero_bytes_is_this_one() -> None:
    assert mint(bytes(32)) == "sk-th-0000000000000000000000000000" + "4CTx8m"


@given(randomness)
def test_the_tail_is_the_crc_of_all_before_it_in_base62(random_bytes: bytes) -> None:
    secret = mint(random_bytes)
    body, tail = secret[:-6], secret[-6:]
    number = 0
    for character in tail:
        number = number * 62 + "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz".index(
            character
        )
    assert number == zlib.crc32(body.encode())
    assert body.startswith("sk-th-")
    assert len(body) == 6 + 28


def test_a_small_crc_is_padded_with_zeros() -> None:
    body = next(
        text for text in (f"sk-th-{n:028d}" for n in range(10**6)) if zlib.crc32(text.encode()) < 62**4
    )
    assert keys.checksum(body).startswith("00")
    assert len(keys.checksum(body)) == 6
    assert well_formed(body + keys.checksum(body))


def test_a_key_carries_at_least_160_random_bits() -> None:
    assert 62**keys.RANDOM_LENGTH >= 2**160


def test_too_little_randomness_is_refused() -> None:
    with pytest.raises(ValueError, match="32 random bytes, got 31"):
        mint(bytes(31))


def test_two_keys_of_other_randomness_differ() -> None:
    source = random.Random(1)
    assert len({mint(source.randbytes(32)) for _ in range(10_000)}) == 10_000


@given(randomness)
def test_a_minted_key_is_well_formed_and_opens_the_door(random_bytes: bytes) -> None:
    secret = mint(random_bytes)
    assert well_formed(secret)
    assert bearer([f"Bearer {secret}"], ()) == secret


@given(st.text(max_size=60))
def test_no_text_at_all_breaks_the_check(text: str) -> None:
    assert well_formed(text) == bool(
        re.fullmatch(KEY_PATTERN, text) and text[-6:] == keys.checksum(text[:-6])
    )


def test_a_mutated_key_is_not_well_formed() -> None:
    source = random.Random(2)
    taken = 0
    for _ in range(100_000):
        secret = mint(source.randbytes(32))
        place = source.randrange(len("sk-th-"), len(secret))
        other = source.choice(ALPHABET.replace(secret[place], ""))
        taken += well_formed(secret[:place] + other + secret[place + 1 :])
    # CRC-32 finds every error of one burst of up to 32 bits: one character is 8.
    assert taken == 0


def test_random_keys_pass_no_more_often_than_the_checksum_allows() -> None:
    source = random.Random(3)
    passed = sum(well_formed("sk-th-" + "".join(source.choices(ALPHABET, k=34))) for _ in range(100_000))
    assert passed == 0  # one in 2^32 is expected: never among so few


def test_the_pattern_finds_every_key_in_noise_and_the_checksum_no_other() -> None:
    source = random.Random(4)
    minted = {mint(source.randbytes(32)) for _ in range(1000)}
    noise = ALPHABET + " \n\t\"'=:;,-_/\\{}[]<>@é"
    pieces = []
    for secret in sorted(minted):
        decoy = "sk-th-" + "".join(source.choices(ALPHABET, k=source.randrange(30, 40)))
        before, after = source.choice(" \n\"'=:/_"), source.choice(" \n\"',;_")
        junk = "".join(source.choices(noise, k=source.randrange(500)))
        pieces += [junk, " ", decoy, " ", secret[:20], before, secret, after]
    found = {text for text in re.findall(KEY_PATTERN, "".join(pieces)) if well_formed(text)}
    assert found == minted


def test_what_is_stored_and_shown_of_a_secret_is_not_the_secret() -> None:
    secret = mint(bytes(range(32)))
    assert keys.digest(secret) == hashlib.sha256(secret.encode()).digest()
    assert secret[10:-4] not in keys.masked(secret)
    assert keys.masked(secret) == f"{secret[:10]}...{secret[-4:]}"


# --- when a key works


def key(**changes: Any) -> Key:
    scope = changes.pop("scope", Scope())
    return Key("key_1", "laptop", "default", b"now", scope, **changes)


def test_a_key_works_with_its_own_digest_only() -> None:
    assert key().works(b"now", 100.0)
    assert not key().works(b"other", 100.0)


def test_a_revoked_key_works_no_more_from_that_very_moment() -> None:
    revoked = key(revoked_at=100.0)
    assert [revoked.works(b"now", at) for at in (99.9, 100.0, 100.1)] == [True, False, False]


def test_an_expired_key_works_no_more_from_that_very_moment() -> None:
    expiring = key(scope=Scope(expires_at=100.0))
    assert [expiring.works(b"now", at) for at in (99.9, 100.0, 100.1)] == [True, False, False]


def test_the_secret_before_a_rotation_works_until_its_time() -> None:
    rotated = key(previous_digest=b"before", previous_until=100.0)
    assert [rotated.works(b"before", at) for at in (99.9, 100.0)] == [True, False]
    assert rotated.works(b"now", 100.0)
    assert not key(previous_digest=b"before").works(b"before", 0.0)
    assert not key(previous_digest=b"before", previous_until=100.0, revoked_at=1.0).works(b"before", 2.0)


# --- one credential a request

SECRET = "sk-th-0123456789abcdef"


@pytest.mark.parametrize(
    "header",
    [f"Bearer {SECRET}", f"bearer {SECRET}", f"BEARER {SECRET}", f"Bearer   {SECRET}", f"Bearer {SECRET} "],
)
def test_the_scheme_is_read_in_any_case_and_spaces_are_no_part_of_the_secret(header: str) -> None:
    assert bearer([header], ()) == SECRET


@pytest.mark.parametrize(
    ("headers", "others", "reason"),
    [
        ([], (), "missing"),
        ([], ("x-api-key",), "missing"),
        ([f"Bearer {SECRET}"] * 2, (), "two Authorization headers"),
        ([f"Bearer {SECRET}"], ("x-api-key",), "second credential in x-api-key"),
        ([f"Bearer {SECRET}"], ("api_key",), "second credential in api_key"),
        ([""], (), "not a bearer token"),
        (["Bearer"], (), "not a bearer token"),
        (["Bearer "], (), "not a bearer token"),
        ([SECRET], (), "not a bearer token"),
        ([f"Basic {SECRET}"], (), "not a bearer token"),
        ([f"Bearer\t{SECRET}"], (), "not a bearer token"),
        (["Bearer sk-proj-0123456789abcdef"], (), "malformed"),
        (["Bearer SK-TH-0123456789abcdef"], (), "malformed"),
        (["Bearer sk-th-0123456789abcdé"], (), "malformed"),
        (["Bearer sk-th-0123456789abcd\udce9"], (), "malformed"),
        (["Bearer sk-th-" + "a" * 251], (), "malformed"),
    ],
)
def test_anything_but_one_bearer_token_is_refused(
    headers: list[str], others: tuple[str, ...], reason: str
) -> None:
    with pytest.raises(InvalidApiKey) as caught:
        bearer(headers, others)
    assert caught.value.reason == reason
    assert SECRET not in caught.value.message


@given(
    st.lists(st.text(max_size=300), max_size=3), st.lists(st.sampled_from(["x-api-key", "key"]), max_size=2)
)
def test_a_credential_is_a_key_s_text_or_a_401(headers: list[str], others: list[str]) -> None:
    try:
        secret = bearer(headers, others)
    except InvalidApiKey:
        return
    assert secret.startswith("sk-th-")
    assert len(headers) == 1
    assert not others
    keys.digest(secret)


# --- addresses


@pytest.mark.parametrize(
    ("text", "address"),
    [
        ("192.0.2.7", "192.0.2.7"),
        (" 192.0.2.7\t", "192.0.2.7"),
        ("192.0.2.7:443", "192.0.2.7"),
        ("2001:db8::1", "2001:db8::1"),
        ("2001:DB8:0:0::1", "2001:db8::1"),
        ("[2001:db8::1]", "2001:db8::1"),
        ("[2001:db8::1]:443", "2001:db8::1"),
        ("::ffff:192.0.2.7", "192.0.2.7"),
        ("[::ffff:192.0.2.7]:443", "192.0.2.7"),
        ("::ffff:c000:207", "192.0.2.7"),
        ("fe80::1%eth0", "fe80::1"),
        ("[fe80::1%eth0]:443", "fe80::1"),
    ],
)
def test_an_address_is_read_without_port_brackets_zone_or_mapping(text: str, address: str) -> None:
    assert parse_address(text) == ipaddress.ip_address(address)


@pytest.mark.parametrize(
    "text",
    [
        "", " ", "unknown", "_hidden", "localhost", "192.0.2", "192.0.2.7.1", "192.0.2.07", "192.0.2.7/32",
        "192.0.2.7:", "192.0.2.7:x", "192.0.2.7:443:443", "192.0.2.7%eth0", ":443", "[192.0.2.7]", "[::1",
        "::1]", "[::1]x", "[::1]:x", "[::1]:443:1", "[]", "::1%", "3221225991", "0x7f.1", "１.2.3.4",
        "for=192.0.2.7", '"192.0.2.7"', "192.0.2.7 192.0.2.8",
    ],
)  # fmt: skip
def test_what_is_no_address_is_none(text: str) -> None:
    assert parse_address(text) is None


@given(st.text(max_size=50))
def test_no_text_breaks_the_reading_of_addresses(text: str) -> None:
    address = parse_address(text)
    assert address is None or parse_address(str(address)) == address


@given(st.ip_addresses())
def test_every_address_is_itself_in_every_spelling(
    address: ipaddress.IPv4Address | ipaddress.IPv6Address,
) -> None:
    expected = address.ipv4_mapped or address if address.version == 6 else address
    spellings = [str(address), address.exploded]
    spellings.append(f"[{address}]:80" if address.version == 6 else f"{address}:80")
    assert [parse_address(text) for text in spellings] == [expected] * 3


@pytest.mark.parametrize(
    ("text", "network"),
    [
        ("192.0.2.7", "192.0.2.7/32"),
        ("10.0.0.0/8", "10.0.0.0/8"),
        ("2001:db8::/32", "2001:db8::/32"),
        ("::ffff:10.0.0.0/104", "10.0.0.0/8"),
        ("::ffff:0:0/96", "0.0.0.0/0"),
        ("::/0", "::/0"),
    ],
)
def test_a_mapped_range_is_the_ipv4_range_it_stands_for(text: str, network: str) -> None:
    assert parse_network(text) == ipaddress.ip_network(network)


@pytest.mark.parametrize("text", ["", "10.0.0.0/33", "10.0.0/8", "example.com", "10.0.0.0-10.0.0.9", "*"])
def test_what_is_no_range_is_refused_by_name(text: str) -> None:
    with pytest.raises(ValueError, match="is not an IP address or CIDR range"):
        parse_network(text)


def test_host_bits_are_refused_with_the_range_that_was_meant() -> None:
    with pytest.raises(ValueError, match=r"has host bits set; did you mean '10\.0\.0\.0/8'"):
        parse_network("10.0.0.1/8")


@given(
    st.ip_addresses(),
    st.lists(st.ip_addresses().flatmap(lambda a: st.tuples(st.just(a), st.integers(0, a.max_prefixlen)))),
)
def test_a_list_holds_what_the_ranges_hold(address: Any, ranges: list[tuple[Any, int]]) -> None:
    networks = [ipaddress.ip_network((each, length), strict=False) for each, length in ranges]
    networks = [each for each in networks if each.version == 4 or each.network_address.ipv4_mapped is None]
    found = Networks(str(each) for each in networks)
    assert (address in found) == any(address in each for each in networks)
    assert bool(found) == bool(networks)


def test_the_two_families_never_hold_each_other() -> None:
    assert ipaddress.ip_address("::1") not in Networks(["0.0.0.0/0"])
    assert ipaddress.ip_address("127.0.0.1") not in Networks(["::/0"])


def test_equal_lists_are_equal_and_compiled_once() -> None:
    assert Networks(["10.0.0.0/8"]) == Networks(["10.0.0.0/8"]) != Networks([])
    assert hash(Networks(["::1"])) == hash(Networks(["::1"]))
    assert repr(Networks(["::1"])) == "Networks(['::1'])"
    assert keys.networks(("10.0.0.0/8",)) is keys.networks(("10.0.0.0/8",))


TRUSTED = Networks(["10.0.0.0/8", "::1", "fd00::/8"])


@pytest.mark.parametrize(
    ("peer", "forwarded", "client"),
    [
        # An untrusted peer says what it likes.
        ("192.0.2.1", ["198.51.100.9"], "192.0.2.1"),
        ("192.0.2.1", [], "192.0.2.1"),
        # A trusted one is believed, right to left.
        ("10.0.0.1", ["198.51.100.9"], "198.51.100.9"),
        ("10.0.0.1", [], "10.0.0.1"),
        ("::ffff:10.0.0.1", ["198.51.100.9"], "198.51.100.9"),
        ("10.0.0.1", ["127.0.0.1, 198.51.100.9"], "198.51.100.9"),
        ("10.0.0.1", ["127.0.0.1,198.51.100.9,10.0.0.2"], "198.51.100.9"),
        ("10.0.0.1", ["127.0.0.1", "198.51.100.9, 10.0.0.2"], "198.51.100.9"),
        ("10.0.0.1", ["198.51.100.9, fd00::5", "10.0.0.2"], "198.51.100.9"),
        ("10.0.0.1", ["198.51.100.9:1234, [fd00::5]:80"], "198.51.100.9"),
        ("10.0.0.1", ["::ffff:198.51.100.9"], "198.51.100.9"),
        # Behind proxies alone, the first of them is the client.
        ("10.0.0.1", ["10.0.0.3, 10.0.0.2"], "10.0.0.3"),
        # What can't be read can't be believed, and nothing left of it counts.
        ("10.0.0.1", ["198.51.100.9, unknown"], None),
        ("10.0.0.1", ["198.51.100.9, "], None),
        ("10.0.0.1", [""], None),
        ("10.0.0.1", ["127.0.0.1, unknown, 10.0.0.2"], None),
        ("10.0.0.1", ["unknown, 198.51.100.9"], "198.51.100.9"),
        ("", ["198.51.100.9"], None),
    ],
)
def test_forwarded_addresses_are_believed_from_trusted_proxies_right_to_left(
    peer: str, forwarded: list[str], client: str | None
) -> None:
    expected = None if client is None else ipaddress.ip_address(client)
    assert client_address(peer, forwarded, TRUSTED) == expected


@given(st.lists(st.text(alphabet="0123456789.,:af[]% x", max_size=30), max_size=3))
def test_nothing_a_client_writes_left_of_its_address_changes_it(invented: list[str]) -> None:
    spoofed = [*invented, "198.51.100.9"]
    assert client_address("10.0.0.1", spoofed, TRUSTED) == ipaddress.ip_address("198.51.100.9")
    joined = [",".join(spoofed)]
    assert client_address("10.0.0.1", joined, TRUSTED) == ipaddress.ip_address("198.51.100.9")


def test_without_trusted_proxies_the_socket_is_the_client() -> None:
    assert client_address("10.0.0.1", ["198.51.100.9"], Networks([])) == ipaddress.ip_address("10.0.0.1")


# --- quota windows


def at(text: str) -> float:
    return datetime.fromisoformat(text).replace(tzinfo=UTC).timestamp()


@pytest.mark.parametrize(
    ("per", "now", "name"),
    [
        ("day", "2026-11-22T23:59:59.999", "laptop/2026-11-22"),
        ("day", "2026-11-23T00:00:00", "laptop/2026-11-23"),
        ("month", "2026-02-28T23:59:59", "laptop/2026-02"),
        ("month", "2028-02-29T23:59:59", "laptop/2028-02"),
        ("month", "2026-03-01T00:00:00", "laptop/2026-03"),
        ("week", "2026-12-31T12:00:00", "laptop/2026-W53"),
        ("week", "2027-01-01T12:00:00", "laptop/2026-W53"),
        ("week", "2027-01-03T23:59:59", "laptop/2026-W53"),
        ("week", "2027-01-04T00:00:00", "laptop/2027-W01"),
        ("week", "2024-12-30T00:00:00", "laptop/2025-W01"),
        ("total", "2026-11-22T12:00:00", "laptop/total"),
    ],
)
def test_a_window_is_named_in_utc_and_iso_weeks(per: Any, now: str, name: str) -> None:
    assert period_name("laptop", per, at(now)) == name


def test_the_clock_s_own_zone_changes_no_window(monkeypatch: pytest.MonkeyPatch) -> None:
    import time

    monkeypatch.setenv("TZ", "Pacific/Kiritimati")
    time.tzset()
    try:
        assert period_name("laptop", "day", at("2026-11-22T23:59:59")) == "laptop/2026-11-22"
    finally:
        monkeypatch.undo()
        time.tzset()


@given(st.floats(0, 4e9), st.floats(0, 4e9), st.sampled_from(["day", "week", "month", "total"]))
def test_windows_follow_each_other_and_never_come_back(first: float, second: float, per: Any) -> None:
    earlier, later = sorted((first, second))
    middle = (earlier + later) / 2
    names = [period_name("k", per, now) for now in (earlier, middle, later)]
    assert names == sorted(names)
    assert names[0] != names[2] or names[1] == names[0]
