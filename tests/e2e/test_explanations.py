"""`saectl eval` explains the latents of SAEs that it evaluates, and asks a judge about them."""

from __future__ import annotations

import json
from pathlib import Path

from judgeserver import KEY, JudgeServer, serving
from realcommand import Saectl

VARIABLE = "A_JUDGES_KEY"
SPEC = """\
name: explained
model: tiny
data: {{tokens: 8192, heldout_tokens: 4096, context: 64}}
train: {{width: 64, num_tokens: 4096, batch_size: 512, shuffle_tokens: 2048}}
eval: {{splice: false}}
matrix: {{layer: [1], site: [mlp_out], sae: [{{arch: topk, k: 8}}]}}
studies:
  explanations:
    latents: 8
    examples: 10
    judge:
      {{base_url: "{address}", model: a-judge, api_key_env: {variable},
       max_tokens: 1_000_000, latents: 2, shown: 5}}
"""


def test_an_evaluation_explains_latents_and_asks_a_judge_once(
    saectl: Saectl, tmp_path: Path
) -> None:
    server, file, key = JudgeServer("the"), tmp_path / "explained.yaml", {VARIABLE: KEY}
    with serving(server) as address:
        file.write_text(SPEC.format(address=address, variable=VARIABLE), encoding="utf-8")
        saectl("run", file, "--set", "studies.explanations.judge=null", env=key)
        assert server.times == []
        refused = saectl("eval", file, code=1)
        assert VARIABLE in refused.stdout + refused.stderr
        said = saectl("eval", file, env=key)
        count = len(server.times)
        assert count >= 2 * (1 + 2 * 2)
        assert f"judge a-judge: {count} questions about 2 latents" in said.stdout + said.stderr
        saectl("eval", file, "--set", "studies.explanations.judge.timeout=9", env=key)
        assert len(server.times) == count  # done: how long it waits changes nothing
        more = "studies.explanations.judge.max_tokens=2_000_000"
        saectl("eval", file, "--set", more, env=key)
        assert len(server.times) == count  # made anew, of answers that are kept
    plain, judged, again = sorted(
        (json.loads(each.read_text()) for each in saectl.store.glob("study/*/study.json")),
        key=lambda record: "judge" in record["method"],
    )
    assert "judge_model" not in plain["method"] and judged["figures"] == again["figures"]
    assert judged["method"]["judge_model"] == "a-judge" and judged["method"]["judge"]["judged"] == 2
    asked = [row["latent"] for row in judged["detail"]["latents"] if "judge" in row]
    assert len(asked) == 2 and len(judged["detail"]["latents"]) == 8
    own = [f for f in judged["figures"] if not f["metric"].startswith("judge")]
    assert own == plain["figures"]
    saectl("results", file)
    table = (saectl.store / "runs" / "explained" / "results.jsonl").read_text().splitlines()
    rows = [row for row in map(json.loads, table) if row["metric"].startswith("judge")]
    assert len(rows) == 8 and {row["judge_model"] for row in rows} == {"a-judge"}
    files = [each for each in saectl.store.rglob("*") if each.is_file()]
    assert len(list(saectl.store.glob("answers/judge/*/*.json"))) == count
    assert not [each for each in files if KEY.encode() in each.read_bytes()]
