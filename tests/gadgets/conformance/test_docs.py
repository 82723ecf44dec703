"""The pages of the vendor kit say what the code does."""

import ast
import json
import re
from pathlib import Path

import pytest

from gadgets.conformance.captures import examples, page
from gadgets.conformance.recon_trials import RULES
from gadgets.conformance.sequence_rules import judge
from gadgets.mask.codec import Codec

ROOT = Path(__file__).parents[3]
CONTRACT = (ROOT / "docs/mask-channel.md").read_text()
CAPTURES = (ROOT / "docs/mask-captures.md").read_text()


def test_the_captures_are_those_that_the_script_makes() -> None:
    assert page() == CAPTURES


def test_the_bytes_on_the_page_are_messages_and_every_kind_is_there() -> None:
    codec, kinds = Codec(), set()
    sections = CAPTURES.split("\n## ")[1:]
    for section, (name, message) in zip(sections, examples(), strict=True):
        assert section.startswith(name + "\n")
        frames = []
        for part in section.split("frame ")[1:]:
            rows = re.findall(r"^  [0-9a-f]{4}  ((?:[0-9a-f]{2} ?)+)", part, re.MULTILINE)
            frames.append(bytes.fromhex("".join(rows)))
            assert len(frames[-1]) == int(re.match(r"\d, (\d+) bytes", part)[1])  # type: ignore[index]
        assert codec.decode(frames) == message
        header = json.loads(frames[1])
        kinds.add((header["kind"], header.get("role")))
    schema = json.loads((ROOT / "gadgets/mask/schema.json").read_text())
    published = {
        (d["properties"]["kind"]["const"], d["properties"].get("role", {}).get("const"))
        for d in schema["$defs"].values()
        if "kind" in d.get("properties", {})
    }
    assert kinds == published


def test_the_contract_lists_every_rule_with_its_sentence_and_an_existing_section() -> None:
    for rule in [v.rule for v in judge([], keys=False, grace_s=1.0)] + list(RULES.values()):
        assert f"| `{rule.name}` | {rule.section} | {rule.sentence} |" in CONTRACT
        assert f"\n## {rule.section}. " in CONTRACT


def test_every_link_of_the_pages_leads_somewhere() -> None:
    for text in (CONTRACT, CAPTURES):
        for target in re.findall(r"\]\(([^)#]+)\)", text):
            assert (ROOT / "docs" / target).exists(), target


@pytest.mark.parametrize("word", ["gadgets", "mnet", "numpy", "ismrmrd", "jsonschema"])
def test_the_python_example_needs_nothing_of_ours(word: str) -> None:
    tree = ast.parse((ROOT / "vendor/sequence_client.py").read_text())
    imported = {
        name.split(".")[0]
        for node in ast.walk(tree)
        if isinstance(node, ast.Import | ast.ImportFrom)
        for name in (
            [alias.name for alias in node.names]
            if isinstance(node, ast.Import)
            else [node.module or ""]
        )
    }
    assert word not in imported
    assert "zmq" in imported
