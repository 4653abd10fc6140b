"""Names of hubs and addresses: their meaning, the files that are downloaded, and their terms."""

from __future__ import annotations

import os

import pytest

from pellucid import Model
from pellucid.errors import FetchError
from pellucid.weights import catalog, hub
from tests.weights.pulls import DATA, REF, fails, kept, pull
from tests.weights.server import Hub, status

# -- references -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "yes"),
    [
        ("owner/name", True),
        ("owner/name:Q4_K_M", True),
        ("owner/name@v1.0:sub/x.gguf", True),
        ("https://example.org/x.gguf", True),
        ("folder/model.gguf", False),
        ("smollm2-135m", False),
        ("./owner/name", False),
        ("/owner/name", False),
        ("a/b/c", False),
        ("../name", False),
    ],
)
def test_what_is_a_reference(text: str, yes: bool) -> None:
    assert hub.is_reference(text) is yes


@pytest.mark.parametrize(
    "reference",
    ["https://example.org/", "https://example.org/x.bin", "https:///x.gguf", "https://h/a%2F..%2Fx.gguf%00"],
)
def test_addresses_of_no_gguf_file(served: Hub, reference: str) -> None:
    for call in (hub.ask, hub.find):
        with pytest.raises(FetchError, match="expected https://HOST/"):
            call(reference)


@pytest.mark.parametrize("name", ["a b.gguf", "a\nb.gguf", "é.gguf"])
def test_addresses_that_no_request_can_have(served: Hub, name: str) -> None:
    fails("is not an address that can be requested", reference=f"{served.url}/{name}")
    assert served.requests == []


@pytest.mark.parametrize("port", ["99999", "x"])
def test_ports_that_are_none(served: Hub, port: str) -> None:
    fails(reference=f"http://127.0.0.1:{port}/x.gguf")


# -- a hub's model --------------------------------------------------------------------------------------------------


def test_progress_counts_what_was_announced(served: Hub) -> None:
    """All files, though one of them is here already."""
    parts = {f"m-0000{i}-of-00002.gguf": DATA for i in (1, 2)}
    served.model("o/split", parts, license="mit")
    hub.fetch(hub.ask("o/split")).unlink()
    seen: list[tuple[int, int, str]] = []
    listing = hub.ask("o/split")
    hub.fetch(listing, lambda *step: seen.append(step))
    done = [step[0] for step in seen if step[2] != "verifying"]
    assert {total for _, total, _ in seen} == {2 * len(DATA)} == {listing.size}
    assert done == sorted(done) and (done[0], done[-1]) == (len(DATA), 2 * len(DATA))


def test_pull_verify_and_find(served: Hub) -> None:
    assert hub.find(REF) is None
    seen: list[tuple[int, int, str]] = []
    listing = hub.ask(REF)
    assert (listing.licence, listing.terms, listing.size) == ("apache-2.0", "", len(DATA))
    path = hub.fetch(listing, lambda *step: seen.append(step))
    assert path.read_bytes() == DATA and path.name == "toy-Q4_0.gguf"
    assert kept() == ["hub/owner/toy/toy-Q4_0.gguf"]
    done = [step[0] for step in seen]
    assert done == sorted(done) and seen[-1] == (len(DATA), len(DATA), "done")
    before = len(served.requests)
    for name in (REF, "owner/toy", "owner/toy:q4_0"):
        assert hub.find(name) == path and catalog.resolve(name) == path
    assert hub.fetch(listing) == path and len(served.requests) == before
    assert served.requests[-1].headers["accept-encoding"] == "identity"


def test_the_first_use_of_a_model_that_was_not_pulled_names_the_command(served: Hub) -> None:
    for name in (REF, "owner/toy", "https://example.org/x.gguf"):
        with pytest.raises(FetchError, match=f"run `pellucid pull {name}`$"):
            Model.load(name)
    assert served.requests == []


def test_which_file(served: Hub) -> None:
    files = {f"m-{q}.gguf": b"GGUF" + q.encode() for q in ("Q4_0", "Q8_0")} | {"mmproj-Q8_0.gguf": b"GGUF"}
    served.model("o/m", files, license="mit")
    assert pull("o/m:q8_0").read_bytes() == b"GGUFQ8_0"
    with pytest.raises(FetchError, match=r"2 GGUF files: name one, as o/m:FILE \(m-Q4_0.gguf, m-Q8_0.gguf\)"):
        hub.ask("o/m")
    with pytest.raises(FetchError, match="no GGUF file like 'Q2_K'"):
        hub.ask("o/m:Q2_K")
    served.model("o/other", {"pytorch_model.bin": b""})
    with pytest.raises(FetchError, match="neither a GGUF file nor config.json"):
        hub.ask("o/other")


def test_split_files_and_a_part_that_the_hub_lacks(served: Hub) -> None:
    parts = {f"x/big-{i:05d}-of-00003.gguf": b"GGUF" + bytes([i]) * 1000 for i in (1, 2, 3)}
    served.model("o/big", parts, license="mit")
    path = pull("o/big:x/big-00002-of-00003.gguf")
    assert path.name == "big-00001-of-00003.gguf" and len(list(path.parent.iterdir())) == 3
    assert hub.find("o/big") == path
    (path.parent / "big-00003-of-00003.gguf").unlink()
    assert hub.find("o/big") is None
    assert pull("o/big") == path and hub.find("o/big") == path
    del parts["x/big-00002-of-00003.gguf"]
    served.model("o/less", parts)
    with pytest.raises(FetchError, match="the hub lacks x/big-00002-of-00003.gguf"):
        hub.ask("o/less")


def test_split_files_of_an_address(served: Hub) -> None:
    for i in (1, 2):
        served.files[f"/d/b-{i:05d}-of-00002.gguf"] = b"GGUF" + bytes([i]) * 5000
    path = pull(f"{served.url}/d/b-00002-of-00002.gguf")
    assert sorted(p.name for p in path.parent.iterdir()) == ["b-00001-of-00002.gguf", "b-00002-of-00002.gguf"]
    assert hub.find(f"{served.url}/d/b-00001-of-00002.gguf") == path


def test_a_folder_counts_once_it_is_whole(served: Hub) -> None:
    files = {
        "config.json": b"{}",
        "tokenizer.json": b"{ }",
        "model.safetensors": bytes(5000),
        "pytorch_model.bin": bytes(9),
        "original/params.json": b"",
    }
    served.model("o/folder", files, license="mit")
    served.faults[served.file("o/folder", "tokenizer.json")] = [status(404)]
    with pytest.raises(FetchError, match="tokenizer.json"):
        pull("o/folder")
    assert hub.find("o/folder") is None
    path = pull("o/folder")
    assert path == hub.find("o/folder") and sorted(os.listdir(path)) == sorted(list(files)[:3])


def test_revision(served: Hub) -> None:
    served.model("o/r", {"a.gguf": b"GGUFold"}, revision="v1")
    assert pull("o/r@v1").read_bytes() == b"GGUFold"
    assert hub.find("o/r") is None and kept() == ["hub/o/r@v1/a.gguf"]


def test_licences(served: Hub) -> None:
    def terms(**card: str) -> tuple[str, str]:
        served.model("o/l", {"a.gguf": DATA}, **card)
        listing = hub.ask("o/l")
        return listing.licence, listing.terms.replace(served.url, "HUB")

    assert terms(license="mit") == ("mit", "")
    assert terms(license="gemma") == ("gemma", "HUB/o/l")
    assert terms(license="mit", gated="manual") == ("mit", "HUB/o/l")
    assert terms() == ("", "HUB/o/l")
    link = "https://example.org/licence"
    assert terms(license="other", license_name="own", license_link=link) == ("own", link)
    assert terms(license="gemma", license_link="file:///x")[1] == "HUB/o/l"
    assert terms(license="\x1b[2J", license_link="https://x/\x1b[2J") == (
        "\\x1b[2J",
        "HUB/o/l",
    )  # it is shown on a terminal


@pytest.mark.parametrize(
    "name",
    [
        "../../evil.gguf",
        "/etc/evil.gguf",
        "a/../../evil.gguf",
        "..\\evil.gguf",
        "c:evil.gguf",
        "x//y.gguf",
        "n\0.gguf",
        "\x1b]0;x\x07.gguf",
        "two\nlines.gguf",
    ],
)
def test_names_that_leave_the_folder(served: Hub, name: str) -> None:
    served.model("o/evil", {name: DATA})
    fails("not a hub's answer", reference="o/evil")


@pytest.mark.parametrize(
    "answer", [b"", b"{", b"[]", b'{"sha": 1}', b"<html>", b"[" * 100_000, b'{"sha":"0123456","siblings":[{}]}']
)
def test_listings_that_are_none(served: Hub, answer: bytes) -> None:
    served.files["/api/models/owner/toy/revision/main"] = answer
    fails("/api/models/owner/toy/")
