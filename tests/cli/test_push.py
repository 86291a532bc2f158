"""`saectl release --push`: private, whole or not at all, and nothing is sent twice, whoever dies.

The hub is a server process of ours (`hubserver`); the release is small files with a true manifest.
"""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest
from hubserver import READER, WRITER, Hub

from sae_cli.cli.output import PushPlan, RunOutput
from sae_cli.errors import FAILED, OK, USAGE
from sae_cli.plan.place import folder, record_of
from sae_cli.store.atomic import sha256_of, write_json
from sae_cli.store.records.claim import claim
from sae_cli.store.records.ledger import open_stage, record_done

REPO = "acme/suite"
LARGE = {f"sae{i}/sae_weights.safetensors": bytes([i]) * 5000 for i in range(8)}
CONTENT = {"README.md": b"# a card\n", "sae0/cfg.json": b"{}\n", **LARGE}


class Released:
    """A workspace whose release holds what a test says, and the command in it."""

    def __init__(self, small, hub: Hub) -> None:
        self.small, self.hub = small, hub
        small.finish("tokens", "cache", "train", "eval")
        (self.stage,) = small.graph.of("release")
        self.place = folder(small.workspace, self.stage)
        self.folder = self.place.path / "small"
        self.make(CONTENT)

    def make(self, content: dict[str, bytes]) -> None:
        """The stage's result, as the stage would record it."""
        self.place.done.unlink(missing_ok=True)
        for name, data in content.items():
            (self.folder / name).parent.mkdir(parents=True, exist_ok=True)
            (self.folder / name).write_bytes(data)
        listed = {
            n: {"sha256": sha256_of(self.folder / n), "bytes": len(d)} for n, d in content.items()
        }
        said = {"version": 1, "saectl": "0.1.0", "suite": "small", "key": self.stage.key}
        with claim(self.place) as held:
            open_stage(self.place, record_of(self.stage))
            write_json(self.folder / "manifest.json", said | {"files": listed})
            files = [self.folder / n for n in (*content, "manifest.json")]
            record_done(held, files, {"saes": 1, "path": "small"}, 1.0)

    def start(self, *words: str, token: str | None = WRITER) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [sys.executable, "-m", "sae_cli", "release", "small.yaml", *words],
            env=os.environ | self.hub.environment(token),
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        )  # fmt: skip

    def push(self, *words: str, code: int = OK, token: str | None = WRITER) -> tuple[str, str]:
        process = self.start("--push", REPO, *words, token=token)
        out, err = process.communicate(timeout=300)
        assert process.returncode == code, err
        assert "Traceback" not in err
        for secret in (WRITER, READER):
            assert secret not in out + err
        return out, err

    @property
    def here(self) -> dict[str, bytes]:
        """What the folder holds."""
        files = [p for p in self.folder.rglob("*") if p.is_file()]
        return {p.relative_to(self.folder).as_posix(): p.read_bytes() for p in files}

    @property
    def there(self) -> dict[str, bytes]:
        """What the repository holds, but for what the hub itself puts there."""
        return {n: d for n, d in self.hub.files(REPO).items() if n != ".gitattributes"}

    @property
    def uploads(self) -> Counter[str]:
        """How often the server said of each large file that it has it now."""
        return Counter(path for _, path, status in self.hub.requests("PUT") if status == 200)

    def dies_in_its_middle(self) -> tuple[subprocess.Popen[str], set[str]]:
        """A push of which the server got a part before it died, and what it has of large files."""
        self.hub.kill()
        self.hub.start(fuse=3)
        process = self.start("--push", REPO)
        self.hub.wait()
        assert len(self.hub.repo(REPO)["commits"]) == 1, "nothing half is to be seen"
        held = {f"/upload/{p.name}" for p in (self.hub.folder / "data").glob("?" * 64)}
        (self.hub.folder / "requests.jsonl").unlink()
        return process, held

    def has_sent_the_rest(self, held: set[str]) -> None:
        """The server has all now, and was sent nothing that it had."""
        digests = (hashlib.sha256(d).hexdigest() for d in LARGE.values())
        rest = {f"/upload/{d}" for d in digests} - held
        assert 0 < len(rest) < len(LARGE) and self.uploads == dict.fromkeys(rest, 1)
        assert self.there == self.here and len(self.hub.repo(REPO)["commits"]) == 2


@pytest.fixture
def released(small, hub, monkeypatch) -> Released:
    monkeypatch.delenv("HF_TOKEN", raising=False)
    return Released(small, hub)


def test_a_dry_run_shows_files_and_sizes_and_asks_nobody(released):
    out, _ = released.push("--dry-run")
    assert f"{len(CONTENT) + 1} files" in out and "5 kB" in out and "(private)" in out
    plan = PushPlan.model_validate_json(released.push("--dry-run", "--json", token=None)[0])
    assert plan.private and {f.name for f in plan.files} == released.here.keys()
    assert plan.bytes == sum(map(len, released.here.values()))
    assert released.hub.requests() == []


def test_a_push_is_private_and_one_commit_holds_all_of_it(released):
    out, err = released.push()
    assert f"pushed: {released.hub.endpoint}/{REPO} at " in out and "made, private" in err
    repo = released.hub.repo(REPO)
    assert repo["private"] and len(repo["commits"]) == 2, "the empty one, and ours"
    assert released.there == released.here
    assert len(released.uploads) == len(LARGE)


def test_a_second_push_sends_nothing(released):
    released.push()
    before = len(released.hub.requests("PUT", "POST"))
    run = RunOutput.model_validate_json(released.push("--json")[0])
    pushed = run.sweeps[0].pushed
    assert pushed.sent == () and pushed.kept == len(CONTENT) + 1
    assert len(released.hub.requests("PUT", "POST")) == before


def test_a_push_outlives_a_server_that_dies_in_its_middle_and_comes_back(released):
    process, held = released.dies_in_its_middle()
    released.hub.start()
    _, err = process.communicate(timeout=300)
    assert process.returncode == OK, err
    released.has_sent_the_rest(held)


def test_a_push_that_was_killed_is_seen_to_its_end_by_the_next(released):
    process, held = released.dies_in_its_middle()
    process.kill()
    process.communicate()
    released.hub.start()
    assert released.there == {}
    released.push()
    released.has_sent_the_rest(held)


def test_without_an_answer_the_error_says_so_and_what_next(released):
    released.hub.kill()
    _, err = released.push(code=FAILED)
    assert f"{REPO}: no answer from {released.hub.endpoint}; nothing was committed" in err
    assert "the same command goes on" in err


@pytest.mark.parametrize("harm", ["changed", "missing", "extra", "manifest.json"])
def test_what_is_not_as_it_was_made_is_never_pushed(released, harm):
    victim = released.folder / "sae3/sae_weights.safetensors"
    if harm == "changed":
        victim.write_bytes(b"x" * 5000)
    elif harm == "missing":
        victim.unlink()
    elif harm == "extra":
        (released.folder / "notes.txt").write_text("mine")
    else:
        manifest = released.folder / harm
        manifest.write_text(manifest.read_text().replace('"0.1.0"', '"9.9.9"'))
    _, err = released.push(code=FAILED)
    assert "nothing was pushed" in err and harm in err and "--force" in err
    assert released.hub.requests() == []


def test_a_public_repository_is_refused_unless_that_is_meant(released):
    released.push("--public")
    assert not released.hub.repo(REPO)["private"]
    before = len(released.hub.repo(REPO)["commits"])
    released.make({**CONTENT, "README.md": b"# another\n"})
    _, err = released.push(code=FAILED)
    assert f"{REPO} is public on the hub" in err and "--public" in err
    assert len(released.hub.repo(REPO)["commits"]) == before
    released.push("--public")
    assert released.there == released.here


@pytest.mark.parametrize(
    ("token", "said"),
    [
        (None, "no token of the hub on this machine"),
        (READER, "no right to write there (403)"),
        ("hf_nobodyNOBODYnobodyNOBODY", "does not know the token (401)"),
    ],
)
def test_who_may_not_push_is_told_why_and_what_to_do(released, token, said):
    _, err = released.push(code=FAILED, token=token)
    assert said in err and "hf auth" in err
    assert token is None or token not in err
    assert released.hub.repo(REPO) is None


def test_no_file_of_the_workspace_holds_the_token(released):
    released.push()
    store = released.small.workspace.root
    files = [p for p in store.rglob("*") if p.is_file()]
    assert files and not any(WRITER.encode() in p.read_bytes() for p in files)


def test_a_new_release_takes_the_place_of_the_old_one_and_leaves_what_others_put_there(released):
    released.push()
    (released.folder / "sae7/sae_weights.safetensors").unlink()
    less = {n: d for n, d in CONTENT.items() if not n.startswith("sae7")}
    released.make({**less, "sae0/cfg.json": b'{"a": 1}\n'})
    run = RunOutput.model_validate_json(released.push("--json")[0])
    pushed = run.sweeps[0].pushed
    assert set(pushed.sent) == {"sae0/cfg.json", "manifest.json"}
    assert pushed.removed == ("sae7/sae_weights.safetensors",)
    assert released.there == released.here and ".gitattributes" in released.hub.files(REPO)


def test_a_card_s_head_that_the_hub_refuses_is_told(released):
    released.make({**CONTENT, "README.md": b"---\nlicense: nonsense\n---\n"})
    _, err = released.push(code=FAILED)
    assert "did not take the card's head" in err and "release.license" in err


def test_a_push_that_makes_no_sense_is_bad_usage(saectl, small, tmp_path):
    for words, said in (
        (["--push", "nameless"], "ORG/NAME"),
        (["--push", "../up"], "ORG/NAME"),
        (["--public"], "--push ORG/NAME"),
        (["--push", REPO, "--executor", "slurm"], "for this machine"),
    ):
        answer = saectl("release", small.spec, *words)
        assert answer.code == USAGE and said in answer.err, words
    assert saectl("train", small.spec, "--push", REPO).code == USAGE
    small.finish("tokens")
    other = tmp_path / "other.yaml"
    other.write_text(small.spec.read_text().replace("name: small", "name: other"))
    record = json.loads((small.workspace.run_dir("small") / "sweep.json").read_text())
    view = small.workspace.run_dir("other")
    view.mkdir(parents=True)
    write_json(view / "sweep.json", {**record, "name": "other"})
    answer = saectl("release", "--push", REPO)
    assert answer.code == USAGE and "several sweeps: other, small" in answer.err


def test_what_leaves_the_release_out_pushes_nothing_and_says_so(saectl, small):
    small.finish("tokens", "cache", "train", "eval")
    answer = saectl("run", small.spec, "--only", "train", "--push", REPO)
    assert answer.code == FAILED and "nothing was pushed: the release is not made" in answer.err


def test_a_release_that_is_not_made_yet_has_a_plan_and_no_files(saectl, small):
    answer = saectl("release", small.spec, "--push", REPO, "--dry-run")
    assert answer.code == OK and "its files are known once the release is made" in answer.err
    assert "release" in answer.out and not Path("store").exists()
