"""A bucket whose server is killed while it is written and read: that costs time, nothing else."""

from __future__ import annotations

import random
from concurrent.futures import ThreadPoolExecutor

from buckets import body, killing, refusal
from s3server import S3Server

from sae_cli.store.buckets.files import ObjectFiles


def test_an_outage_costs_time_and_nothing_else(s3: S3Server, s3_url: str) -> None:
    files, k = ObjectFiles(s3_url), 0
    log, rng = files.log("log"), random.Random(0)
    with killing(s3, times=4, seed=1) as going:
        while going() or k <= 4:  # how many fit beside four kills is the machine's affair
            upload = files.create(f"c/{k}")
            upload.write(body(k))
            upload.finish()
            log.append({"k": k})
            old = rng.randrange(k + 1)
            data = body(old)
            offset = rng.randrange(len(data))
            assert files.map(f"c/{old}", offset, len(data) - offset).tobytes() == data[offset:]
            assert files.size(f"c/{old}") == len(data)
            assert len(files.names("c")) == len(files.read_log("log")) == k + 1
            k += 1
    s3.kill()
    s3.start()
    assert k > 4
    assert [e["k"] for e in files.read_log("log")] == list(range(k))
    assert all(files.get(f"c/{n}") == body(n) for n in range(k))


def test_threads_share_a_place_through_an_outage(s3: S3Server, s3_url: str) -> None:
    files = ObjectFiles(s3_url)

    def work(lane: int) -> int:
        log, n = files.log(f"commits/{lane}"), 0
        while going() or n == 0:
            files.put(f"{lane}/{n}", body(100 * lane + n))
            log.append({"lane": lane, "n": n})
            n += 1
        return n

    with killing(s3, times=2, seed=2) as going, ThreadPoolExecutor(4) as pool:
        done = list(pool.map(work, range(4)))
    assert [len(files.read_log(f"commits/{lane}")) for lane in range(4)] == done
    for lane, n in enumerate(done):
        assert all(files.get(f"{lane}/{i}") == body(100 * lane + i) for i in range(n))


def test_a_store_that_stays_away_is_an_error_that_says_so(s3: S3Server, s3_url: str) -> None:
    files = ObjectFiles(s3_url, patience=1.0)
    files.put("a", b"1")
    upload = files.create("b")
    upload.write(b"2")
    s3.kill()
    for act in (lambda: files.get("a"), upload.finish, lambda: files.names("")):
        told = refusal(act)
        assert f"{s3_url}" in told and "Connection refused" in told and "is it up" in told
    s3.start()
    upload.finish()
    assert files.names("") == ["a", "b"]
