"""What jobs say of themselves at their start and their end."""

from __future__ import annotations

import json

import pytest

from jobs.summaries import announce, generative_notice, show_decoded, show_encoded, show_retried
from pipeline.codecs.points import CodecAt
from pipeline.encode.job import EncodeJob
from pipeline.job_summary import JobSummary

NOTICE = "ditic-small is a generative codec: part of the detail in restored photos is synthesised. Keep the sources."


def test_a_generative_codec_is_told_at_the_start_and_in_the_summary(capsys: pytest.CaptureFixture[str]) -> None:
    announce(EncodeJob(source="a", archive="b"), as_json=False)
    assert capsys.readouterr() == ("", f"{NOTICE}\n")
    announce(EncodeJob(source="a", archive="b", ladder=(CodecAt("avif"), CodecAt("ditic-small", 4))), as_json=True)
    event = json.loads(capsys.readouterr().out)
    assert event == {"event": "notice", "generative_codecs": ["ditic-small"], "message": NOTICE}
    announce(EncodeJob(source="a", archive="b", codec="avif"), as_json=False)
    assert capsys.readouterr() == ("", "")
    for show in (show_encoded, show_retried):
        show(JobSummary(num_photos=2, num_encoded=2, codecs={"webp": 1, "ditic-small": 1}))
        assert f"\n{NOTICE}\n" in capsys.readouterr().out
        show(JobSummary(num_photos=1, num_encoded=1, codecs={"webp": 1}))
        assert "generative" not in capsys.readouterr().out
    assert generative_notice(["ditic", "ditic-small"]).startswith("ditic and ditic-small are generative codecs: ")


def test_summaries_have_one_fact_a_line_and_no_zeros(capsys: pytest.CaptureFixture[str]) -> None:
    done = JobSummary(
        num_photos=6, num_skipped=3, num_new=2, num_changed=1, num_encoded=1, num_kept=1, num_failed=1, bytes_in=2_100_000,
        bytes_stored=2_000_000, bytes_out=500_000, elapsed_s=75.2, failures=[("x.jpg", "broken")],
        not_stored={"x.jpg": "broken", "y.txt": "no photo"},
    )  # fmt: skip
    show_encoded(done)
    said = capsys.readouterr()
    assert said.out.splitlines() == [
        "6 files in the source",
        "1 photo encoded",
        "1 file kept as it is",
        "1 file had changed",
        "2 files were stored already",
        "1 file failed",
        "2.00 MB became 500 kB, 4.0 times smaller",
        "took 1 min 15 s",
        "2 files are not stored; photoark retry SRC ARCHIVE tries again",
    ]
    assert said.err == "failed: x.jpg: broken\nnot stored: y.txt: no photo\n"
    show_encoded(JobSummary(num_photos=2, num_skipped=2))
    assert capsys.readouterr().out.splitlines() == ["2 files in the source", "2 files were stored already", "nothing to encode"]
    show_decoded(JobSummary(num_photos=2, num_restored=2, bytes_out=1_500_000, elapsed_s=2.0))
    assert capsys.readouterr().out.splitlines() == [
        "2 photos in the archive",
        "2 photos restored",
        "1.50 MB written",
        "took 2.0 s",
    ]
    failures = [("a.jpg", "no space"), ("b.jpg", "damaged")]
    show_decoded(JobSummary(num_photos=2, num_failed=2, num_unwritten=1, failures=failures, elapsed_s=2.0))
    said = capsys.readouterr()
    assert said.out.splitlines()[1:3] == [
        "2 photos not restored",
        "1 of them could not be written; once that is mended, the same command with --resume writes what is missing",
    ]


def test_many_failures_are_counted_after_the_first(capsys: pytest.CaptureFixture[str]) -> None:
    show_retried(JobSummary(num_photos=500, not_stored={f"{i}.jpg": "broken" for i in range(500)}))
    said = capsys.readouterr()
    assert "500 files are not stored\n" in said.out
    assert len(said.err.splitlines()) == 21
    assert said.err.endswith("not stored: 480 more; --json names all\n")
