"""The report of a job: savings, failures and photos first, in one file that needs no other."""

from __future__ import annotations

import json
from pathlib import Path

from cluster.watch import Watch
from jobs.examples import examples
from jobs.report import write_report
from pipeline.encode.history import History
from pipeline.encode.job import EncodeJob
from pipeline.job_summary import JobSummary
from tests.jobs.test_verify import archived


def test_a_page_shows_savings_failures_and_photos_before_machines(tmp_path: Path, photo_files: dict[str, bytes]) -> None:
    source = tmp_path / "photos"
    source.mkdir()
    for name in ("wine.jpg", "brushes.jpg"):
        (source / name).write_bytes(photo_files[name])
    job = EncodeJob(source=str(source), archive=str(archived(source, tmp_path / "archive")), codec="webp")
    shown = examples(job, ["brushes.jpg", "wine.jpg", "not there.jpg"])
    assert [example.key for example in shown] == ["brushes.jpg", "wine.jpg"]
    assert "smaller, webp, 515 x 900" in shown[0].caption
    reasons = {f"<{i}>.jpg": "broken & lost" for i in range(300)}
    summary = JobSummary(
        num_photos=302, num_encoded=2, num_failed=300, bytes_stored=2_000_000, bytes_out=500_000, codecs={"ditic-small": 2},
        failures=list(reasons.items()), not_stored=reasons,
    )  # fmt: skip
    write_report(tmp_path / "report", summary, History(), Watch(), shown)
    page = (tmp_path / "report" / "report.html").read_text()
    order = (
        "<h1>2.00 MB became 500 kB, 4.0 times smaller</h1>", "302 files in the source", "ditic-small is a generative codec",
        "<h2>300 files failed</h2>", "&lt;0&gt;.jpg", "broken &amp; lost", "100 more are in report.json", "<h2>Photos</h2>",
        "<b>brushes.jpg</b>", "<img alt='brushes.jpg' src='data:image/jpeg;base64,", "<b>wine.jpg</b>", "<svg",
    )  # fmt: skip
    places = [page.index(text) for text in order]
    assert places == sorted(places)
    assert not any(loads in page for loads in ("src='http", 'src="', 'href="http', "@import", "<script"))
    assert len(json.loads((tmp_path / "report" / "report.json").read_text())["summary"]["failures"]) == 300
