"""One file, no network, and nothing that others wrote is taken for markup."""

from __future__ import annotations

import json
import re
from html.parser import HTMLParser

import pytest

from eval.chart_suite import evaluate_charts
from eval.report import write_report

HOSTILE = '</p><script>alert(1)</script><img src=http://evil.test/x onerror="alert(2)">{{ 7*7 }}\x00\u202e'


class Tags(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict]] = []

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))


@pytest.fixture
def run_dir(model_and_processor, tmp_path):
    evaluate_charts(*model_and_processor, tmp_path / "eval" / "charts", count=6, cot_count=4)
    return tmp_path


def test_hostile_text_stays_text(run_dir):
    path = run_dir / "eval" / "charts" / "gallery" / "gallery.json"
    rows = json.loads(path.read_text())
    for row in rows:
        row |= {"question": HOSTILE, "gold": HOSTILE, "answer": HOSTILE, "blank": HOSTILE, "reasoned": HOSTILE, "kind": HOSTILE}
        row["tokens"] = [[HOSTILE, 1.0, True]]
    path.write_text(json.dumps(rows))
    summary = run_dir / "eval" / "charts" / "summary.json"
    content = json.loads(summary.read_text())
    for name in ("by_type", "by_type_blank", "by_kind", "by_kind_blank"):
        content[name] = {HOSTILE: next(iter(content[name].values()))}
    summary.write_text(json.dumps(content))
    (run_dir / "metrics.csv").write_text(
        f'stage,step,tokens,name,value\n"{HOSTILE.replace(chr(34), "")[:40]}",1,1,train/loss,2\n'
    )
    html = write_report(run_dir).read_text()
    parser = Tags()
    parser.feed(html)
    assert not {tag for tag, _ in parser.tags} & {"script", "link", "iframe", "object"}
    assert not [attrs for _, attrs in parser.tags if any(name.startswith("on") for name in attrs)]
    assert all(attrs["src"].startswith("data:image/") for tag, attrs in parser.tags if tag == "img")
    assert "{{ 7*7 }}" in html


def test_a_gallery_cannot_read_other_files(run_dir):
    path = run_dir / "eval" / "charts" / "gallery" / "gallery.json"
    rows = json.loads(path.read_text())
    rows[0]["image"] = "../../../../../../etc/hostname"
    path.write_text(json.dumps(rows))
    with pytest.raises(FileNotFoundError):
        write_report(run_dir)


def test_the_report_needs_no_network_and_is_deterministic(run_dir):
    html = write_report(run_dir).read_text()
    without_data = re.sub(r'"data:image/[^"]*"', '""', html)
    assert not re.search(r"(?:src|href)=[\"'](?!\"|')|url\(|@import|https?://", without_data)
    assert html.count('class="card"') == 4
    assert write_report(run_dir).read_text() == html


def test_an_empty_run_has_a_report(tmp_path):
    assert "no chart evaluation yet" in write_report(tmp_path).read_text()


def test_metrics_that_are_not_finite_do_not_stop_the_report(tmp_path):
    rows = ["text,1,10,train/loss,nan", "text,2,20,train/loss,inf", "text,3,30,train/loss,2.0"]
    (tmp_path / "metrics.csv").write_text("\n".join(["stage,step,tokens,name,value", *rows]) + "\n")
    assert "data:image/svg+xml" in write_report(tmp_path).read_text()


def test_arithmetic_and_speed_are_shown_where_they_were_written(tmp_path):
    head = "stage,step,tokens,name,value"
    flop = ["text,1,10,flop/decoder,5e14", "text,2,20,flop/decoder,3e15", "text,2,20,flop/head,1e15"]
    (tmp_path / "metrics.csv").write_text("\n".join([head, "old,1,10,train/loss,2.0", *flop]) + "\n")
    assert "<td>4</td><td>75 %</td><td>25 %</td><td>–</td>" in write_report(tmp_path).read_text()
    speed = [
        f"text,{i},{10 * i},speed/{name},{value}" for i, value in ((1, 0.2), (2, 0.4), (3, 0.5)) for name in ("mfu", "tflops")
    ]
    speed += ["text,3,30,speed/images_per_second,5120.2", "text,3,30,data/wait,0.0312"]
    (tmp_path / "speed.csv").write_text("\n".join([head, *speed]) + "\n")
    html = write_report(tmp_path).read_text()
    assert "<td>–</td><td>5,120</td><td>0.4</td><td>40.0 %</td><td>3.1 %</td>" in html and "<td>old</td>" not in html
    assert 'alt="speed over the training"' in html
