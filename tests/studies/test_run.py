"""`ifuvit study`: making, exporting, importing, and one line for every mistake."""

import csv
import json
import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from tiny_pipeline import write_tiny_pipeline
from tiny_study import MODELS, PROMPTS, make_study, write_images

from ifuvit.commands import study as command
from ifuvit.diffusion.settings import SamplingSettings
from ifuvit.studies.answers import read_answers
from ifuvit.studies.config import StudyExportConfig, StudyImportConfig, StudyMakeConfig
from ifuvit.studies.design import read_study
from ifuvit.studies.making import parse_count, plural, scene_captions
from ifuvit.studies.run import address, export, import_answers, make
from ifuvit.studies.store import Store
from ifuvit.studies.tables import overview
from ifuvit.utils.errors import InputError


def test_a_count_of_folders(tmp_path: Path) -> None:
    made = read_study(make_study(tmp_path, "count", checks=2))
    assert made.models == MODELS and made.image_size == 16
    assert len(made.items) == len(PROMPTS) * 2 * len(MODELS)
    asked = {"a bus": ("bus", 1), "two sheep": ("sheep", 2), "three apples": ("apple", 3), "four people": ("person", 4)}
    for item in made.items:
        assert (item.kind, item.count) == asked[item.prompt]
        assert item.model is not None and item.index in (0, 1)
        number = PROMPTS.index(item.prompt) * 2 + item.index
        source = next((tmp_path / "count-images" / MODELS[item.model]).glob(f"{number:04d}-*"))
        assert np.array_equal(
            np.asarray(Image.open(tmp_path / "count" / "images" / item.images[0])), np.asarray(Image.open(source))
        ), "it is the image that it says"
    assert [(check.kind in ("bus", "sheep", "apple", "person"), 1 <= (check.count or 0) <= 5) for check in made.checks] == [(True, True)] * 2  # fmt: skip
    assert len(list((tmp_path / "count" / "images").iterdir())) == len(made.items) + 2


def test_a_preference_of_folders(tmp_path: Path) -> None:
    made = read_study(make_study(tmp_path, "preference", prompts=("a dream", "a dream", "music"), size=32))
    assert [(item.prompt, item.index) for item in made.items] == [
        ("a dream", 0), ("a dream", 1), ("a dream", 2), ("a dream", 3), ("music", 0), ("music", 1),
    ]  # fmt: skip
    (check,) = made.checks
    images = tmp_path / "preference" / "images"
    shown = [np.asarray(Image.open(images / name)) for name in check.images]
    same_prompt = [item for item in made.items if item.prompt == check.prompt and item.index == check.index]
    originals = [np.asarray(Image.open(images / name)) for name in same_prompt[0].images]
    spoiled = [model for model in range(4) if not np.array_equal(shown[model], originals[model])]
    assert spoiled == [check.model]
    assert not set(check.images) & {name for item in made.items for name in item.images}


@pytest.mark.parametrize("kind", ["count", "preference"])
def test_files_tell_nothing(tmp_path: Path, kind: str) -> None:
    directory = make_study(tmp_path, kind)
    files = sorted((directory / "images").iterdir(), key=lambda path: path.stat().st_mtime_ns)
    made = read_study(directory)
    for path in files:
        content = path.read_bytes()
        assert len(path.stem) == 32 and int(path.stem, 16) >= 0
        assert not [word for word in (*MODELS, *PROMPTS) if word.encode() in content]
    items = [name for item in made.items for name in item.images]
    written = [path.name for path in files if path.name in set(items)]
    assert written == sorted(written), "their dates say no more than their random names"


def test_models_draw_the_same_prompts_from_the_same_seeds(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model = str(write_tiny_pipeline(tmp_path / "run"))
    (tmp_path / "prompts.txt").write_text("a bus\ntwo sheep\n")
    command.main(
        ["make", "count", model, f"{model}/pipeline", "--names", "one", "same", "--prompts-file", str(tmp_path / "prompts.txt"), "--images-per-prompt", "2",
         "--steps", "2", "--device", "cpu", "--raters", "2", "--raters-per-item", "1", "--repeats", "0", "--checks", "0", "--practice", "0", "--out", str(tmp_path / "study")]
    )  # fmt: skip
    made = read_study(tmp_path / "study")
    images: dict[tuple, list[bytes]] = {}
    for item in made.items:
        images.setdefault((item.prompt, item.index), []).append(
            (tmp_path / "study" / "images" / item.images[0]).read_bytes()
        )
    assert len(images) == 4 and all(len(set(pair)) == 1 for pair in images.values()), "one model twice"
    assert len({pair[0] for pair in images.values()}) == 4
    manifest = json.loads((tmp_path / "study" / "manifest.json").read_text())
    assert [source["settings"]["sampling"]["steps"] for source in manifest["sources"]] == [2, 2]
    assert not (tmp_path / "study.drawings").exists()
    printed = capsys.readouterr().out
    assert "8 items for 1 of 2 raters each; 4 tasks a rater" in printed and "ifuvit study serve" in printed


def test_what_was_drawn_before_it_was_killed_is_not_drawn_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from ifuvit.pipeline import Pipeline

    (tmp_path / "prompts.txt").write_text("a bus\ntwo sheep\nthree apples\n")
    config = StudyMakeConfig(
        kind="count", models=(str(write_tiny_pipeline(tmp_path / "run")),), prompts_file=tmp_path / "prompts.txt", images_per_prompt=1,
        batch_size=1, sampling=SamplingSettings(steps=2), device="cpu", raters=2, raters_per_item=1, repeats=0, checks=0, practice=0, out=tmp_path / "study",
    )  # fmt: skip
    generated: list[int] = []
    generate = Pipeline.__call__

    def killed_at_the_third(self: Pipeline, prompts: list[str], *given, first_index: int = 0, **settings):
        if first_index == 2 and not generated.count(2):
            generated.append(2)
            raise KeyboardInterrupt
        generated.append(first_index)
        return generate(self, prompts, *given, first_index=first_index, **settings)

    monkeypatch.setattr(Pipeline, "__call__", killed_at_the_third)
    with pytest.raises(KeyboardInterrupt):
        make(config)
    assert not (tmp_path / "study").exists() and len(list((tmp_path / "study.drawings").rglob("*.png"))) == 2
    made = make(config)
    assert generated == [0, 1, 2, 2] and len(made.items) == 3
    assert not (tmp_path / "study.drawings").exists()


def test_how_many_raters_it_takes(tmp_path: Path) -> None:
    directory = make_study(tmp_path, "count")
    told = overview(read_study(directory), None)
    assert (
        "expected 95 % interval of a model's share of right counts: at least 0.6 wide" in told
        and "about 3 minutes" in told
    )
    assert "flagged who fails 1 of 1 attention checks" in told
    assert "no number of raters is enough; with 2 raters an item it takes 289 items a model" in told
    assert "for 0.65: 2 raters an item, that is 2 raters" in overview(read_study(directory), 0.65)


def test_an_earlier_study_is_replaced_but_never_its_answers(tmp_path: Path) -> None:
    directory = make_study(tmp_path, "count")
    config = StudyMakeConfig(
        kind="count", models=tuple(str(tmp_path / "count-images" / name) for name in MODELS), out=directory, raters=3, repeats=0, practice=0
    )  # fmt: skip
    assert len(make(config).raters) == 3
    (directory / "answers.sqlite").touch()
    with pytest.raises(InputError, match="holds a study with answers"):
        make(config)
    (tmp_path / "thesis").mkdir()
    (tmp_path / "thesis" / "thesis.doc").touch()
    with pytest.raises(InputError, match="holds something else"):
        make(StudyMakeConfig(kind="count", models=config.models, out=tmp_path / "thesis"))


def test_directories_of_any_images(tmp_path: Path) -> None:
    """With prompts in text files, in a metadata.jsonl, or in one file for all."""
    one, two, three = (write_images(tmp_path / name, seed=seed) for seed, name in enumerate(("one", "two", "three")))
    for place in (one, two, three):
        images = json.loads((place / "manifest.json").read_text())["images"]
        (place / "manifest.json").unlink()
        prompts = [" ".join(image["prompt"].split()) for image in images]
        files = [image["file"] for image in images]
        if place == one:
            for file, prompt in zip(files, prompts):
                (place / file).with_suffix(".txt").write_text(f"{prompt}\n")
        elif place == two:
            lines = [json.dumps({"file_name": file, "text": prompt}) for file, prompt in zip(files, prompts)]
            (place / "metadata.jsonl").write_text("\n".join(lines))
    (tmp_path / "captions.txt").write_text("\n".join(prompts))
    settings: dict[str, Any] = {"checks": 0, "repeats": 0, "practice": 0, "raters": 2, "raters_per_item": 2}
    made = make(StudyMakeConfig(kind="count", models=(str(one), str(two)), out=tmp_path / "a", **settings))
    assert [item.count for item in made.items] == [1] * 4 + [2] * 4 + [3] * 4 + [4] * 4
    with pytest.raises(InputError, match=r"0000-.*png: has no prompt; .*--captions"):
        make(StudyMakeConfig(kind="count", models=(str(three),), out=tmp_path / "b", **settings))
    captioned = StudyMakeConfig(
        kind="count", models=(str(three),), captions=tmp_path / "captions.txt", out=tmp_path / "b", **settings
    )
    assert [item.prompt for item in make(captioned).items] == [item.prompt for item in made.items[::2]]


def test_images_that_do_not_match(tmp_path: Path) -> None:
    one = write_images(tmp_path / "one")
    fewer = write_images(tmp_path / "fewer", prompts=PROMPTS[:3])
    large = write_images(tmp_path / "large", size=32)

    def refused(*models: Path, message: str, kind: str = "preference", **settings) -> None:
        with pytest.raises(InputError, match=message):
            make(StudyMakeConfig(kind=kind, models=tuple(map(str, models)), out=tmp_path / "study", **settings))  # pyright: ignore
        assert not (tmp_path / "study").exists()

    refused(one, fewer, message="fewer: has no image 1 of the prompt 'four people', as one has")
    refused(fewer, one, message="fewer: has no image 1 of the prompt 'four people', as one has")
    refused(one, large, message="32 x 32 pixels, where .* has 16 x 16.*--size")
    refused(one, write_tiny_pipeline(tmp_path / "run"), message="run: would generate, where .*one holds images")
    refused(one, one, message="models one, one: give different --names")
    refused(one, message="preference study of 1 models")
    refused(one, large, size=16, prompts_file=tmp_path / "p.txt", message="--prompts-file: is for models that generate")
    refused(one, large, size=16, batch_size=2, message="--batch-size: is for models that generate")
    steps = SamplingSettings(steps=9)
    refused(one, large, size=16, sampling=steps, message="--steps: is for models that generate")
    refused(one, tmp_path / "nowhere", message="nowhere")
    refused(one, large, size=16, raters=3, message="--raters-per-item 5: there are only 3 --raters")
    refused(
        one, large, size=16, raters=8, message="--repeats 3: a rater has 5 items, of which half at most can come again"
    )
    refused(
        one, large, size=16, aspects=("fun",), message="--aspects: are for a study of ratings, not for a preference"
    )
    refused(one, kind="rating", aspects=("fun", "fun"), message="--aspects fun: must be different words")
    refused(one, kind="rating", aspects=("Fun!",), message="--aspects Fun!: must be different words")
    refused(*[one] * 10, names=tuple("abcdefghij"), message="10 models: nobody can rank more than 9")
    (tmp_path / "relations.txt").write_text("two sheep\na bus left of an apple\n")
    model = tmp_path / "run"
    refused(
        model,
        kind="count",
        prompts_file=tmp_path / "relations.txt",
        message="'a bus left of an apple': asks for no number",
    )
    refused(one, large, size=16, consent=tmp_path / "no.txt", message="--consent .*no.txt: no such file")
    relations = write_images(tmp_path / "relations", prompts=("a bus left of an apple",))
    refused(relations, kind="count", message="'a bus left of an apple': asks for no number of objects of one kind")
    assert make(
        StudyMakeConfig(
            kind="preference", models=(str(one), str(large)), out=tmp_path / "study", size=24, checks=0, repeats=0
        )
    )
    assert read_study(tmp_path / "study").image_size == 24


def test_what_prompts_ask_for() -> None:
    assert parse_count("three sheep")[:2] == ("sheep", 3) and parse_count("two traffic lights")[:2] == (
        "traffic light",
        2,
    )
    assert [plural(kind) for kind in ("person", "sheep", "bus", "traffic light", "knife", "gizmo")] == [
        "people", "sheep", "buses", "traffic lights", "knives", "gizmos",
    ]  # fmt: skip
    captions = scene_captions(12, seed=0)
    assert len(set(captions)) == 12 and captions == scene_captions(12, seed=0)


def test_forms_go_out_and_answers_come_in(tmp_path: Path) -> None:
    directory = make_study(tmp_path, "preference")
    made = read_study(directory)
    command.main(["export", str(directory), "forms", "--out", str(tmp_path / "forms")])
    assert {path.name for path in (tmp_path / "forms").iterdir()} == {"r01.html", "r02.html"}
    answer = {
        "task": 0,
        "status": "answered",
        "count": None,
        "ranks": [2, 1, 3, 4],
        "seconds": 3,
        "at": "2026-01-01T00:00:00.000+00:00",
    }
    changed = answer | {"ranks": [1, 2, 3, 4], "at": "2026-01-01T00:01:00.000+00:00"}
    for rater, log in zip(made.raters, ([answer, changed], [answer])):
        back = {"study": made.id, "rater": rater.id, "token": rater.token, "agreed": answer["at"], "answers": log}
        (tmp_path / f"{rater.id}.json").write_text(json.dumps(back))
    files = tuple(tmp_path / f"{rater.id}.json" for rater in made.raters)
    store = Store(directory)
    store.closed = True
    with pytest.raises(InputError, match="the study is closed; open it again .* or give --even-closed"):
        import_answers(StudyImportConfig(study=directory, files=files))
    assert import_answers(StudyImportConfig(study=directory, files=files[1:], even_closed=True)) == (1, 1)
    store.closed = False
    for new in (2, 0):
        assert import_answers(StudyImportConfig(study=directory, files=files)) == (3, new)
    assert [(one.rater, one.ranks, one.changes) for one in read_answers(directory)] == [
        ("r01", (1.0, 2.0, 3.0, 4.0), 1), ("r02", (2.0, 1.0, 3.0, 4.0), 0),
    ]  # fmt: skip
    (tmp_path / "bad.json").write_text(json.dumps({**back, "answers": [answer | {"task": 1}, answer | {"task": 99}]}))
    with pytest.raises(InputError, match="answer 2: rater r02 has no task 99; nothing was taken"):
        import_answers(StudyImportConfig(study=directory, files=(tmp_path / "bad.json",)))
    assert len(read_answers(directory)) == 2
    for name in ("csv", "json", "label-studio", "label-studio-tasks"):
        export(StudyExportConfig(study=directory, format=name, out=tmp_path / f"answers.{name}"))  # pyright: ignore
        assert "r01" in (tmp_path / f"answers.{name}").read_text()
    assert "<Number" in (tmp_path / "answers.xml").read_text(), "the interface of Label Studio is next to its tasks"


def test_links_are_exported_for_their_owner_alone(tmp_path: Path) -> None:
    directory = make_study(tmp_path, "count")
    store = Store(directory)
    store.name("r02", "=Eve")
    command.main(["export", str(directory), "links", "--url", "https://x.org/", "--out", str(tmp_path / "links.csv")])
    rows = list(csv.DictReader((tmp_path / "links.csv").open()))
    assert [(row["rater"], row["name"]) for row in rows] == [("r01", ""), ("r02", "'=Eve")]
    assert [row["link"] for row in rows] == [f"https://x.org/r/{one.token}/" for one in read_study(directory).raters]
    export(StudyExportConfig(study=directory, format="forms", out=tmp_path / "forms"))
    if os.name == "posix":
        for file in (
            tmp_path / "links.csv",
            directory / "study.json",
            directory / "answers.sqlite",
            *(tmp_path / "forms").iterdir(),
        ):
            assert file.stat().st_mode & 0o077 == 0, file


def test_tokens_are_never_on_the_disk_for_others(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """At every rename and change of permissions, files with tokens are their owner's."""
    seen: list[Path] = []

    def look(*_: object, **__: object) -> None:
        for file in tmp_path.rglob("*"):
            if (
                file.is_file()
                and file.suffix in (".html", ".json", ".tmp")
                and re.search(rb'_token"|data-token=', file.read_bytes())
            ):
                seen.append(file)
                above = [one for one in file.parents if tmp_path in one.parents]
                closed = any(one.stat().st_mode & 0o077 == 0 for one in above)  # a directory that is being written
                assert closed or file.stat().st_mode & 0o077 == 0, file

    replace, chmod = os.replace, Path.chmod
    monkeypatch.setattr(os, "replace", lambda *given: (look(), replace(*given), look()))
    monkeypatch.setattr(Path, "chmod", lambda *given: (look(), chmod(*given), look()))
    directory = make_study(tmp_path, "count")
    export(StudyExportConfig(study=directory, format="forms", out=tmp_path / "forms"))
    assert {file.name for file in seen} >= {"study.json", "r01.html"}


def test_where_raters_reach_the_server(monkeypatch: pytest.MonkeyPatch) -> None:
    assert (address("127.0.0.1"), address("::1"), address("study.local")) == ("127.0.0.1", "[::1]", "study.local")

    class Probe:
        found: tuple[str, int] | None = ("192.168.7.5", 4)

        def __init__(self, *_: object) -> None: ...
        def __enter__(self) -> "Probe":
            return self

        def __exit__(self, *_: object) -> None: ...
        def connect(self, _: object) -> None:
            if self.found is None:
                raise OSError("Network is unreachable")

        def getsockname(self) -> tuple[str, int] | None:
            return self.found

    monkeypatch.setattr("socket.socket", Probe)
    assert address("0.0.0.0") == "192.168.7.5"
    Probe.found = ("fe80::7%eth0", 4)
    assert address("::") == "[fe80::7]"
    for nowhere in (None, ("127.0.0.1", 4), ("0.0.0.0", 4)):
        Probe.found = nowhere
        with pytest.raises(InputError, match="--host 0.0.0.0: .* give --url http://ADDRESS:PORT"):
            address("0.0.0.0")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["fly"], "unknown action 'fly'; the actions are make"),
        (["make"], "ifuvit study make --help"),
        (["make", "love", "m", "--out", "o"], "--help"),
        (["make", "count", "magic", "--out", "o"], "no model 'magic'"),
        (["make", "count", "m", "--out", "o", "--raters", "0"], "--raters 0"),
        (["make", "count", "m", "--out", "o", "--checks", "-1"], "--checks -1"),
        (["make", "count", "m", "--out", "o", "--interval-width", "0"], "--interval-width 0"),
        (["make", "count", "a", "b", "--out", "o", "--names", "a"], "--names: 1 for 2 models"),
        (["serve", "nowhere"], "nowhere: holds no study"),
        (["serve", "nowhere", "--port", "0"], "--port 0"),
        *(
            (["serve", "nowhere", "--url", url], f"--url {url}: must be a scheme and a host alone")
            for url in (
                "https://x.org/study",
                "notaurl",
                "javascript:alert(1)",
                "ftp://x.org",
                "https://",
                "https://u:p@x.org",
                "https://x.org?a=1",
                "https://x.org/#a",
                "https://x.org:99999",
                "//x.org",
                "https://[::1",
            )
        ),
        (["serve", "nowhere", "--completion-url", "javascript:alert(1)"], "--completion-url javascript:alert(1)"),
        (["serve", "nowhere", "--participant-parameter", "a b"], "--participant-parameter a b"),
        (["export", "nowhere", "links", "--out", "o", "--url", "x"], "--url x"),
        (["add-raters", "nowhere", "0"], "number 0"),
        (["add-raters", "nowhere", "1"], "nowhere: holds no study"),
        (["withdraw", "nowhere", "r01"], "nowhere: holds no study"),
        (["make", "count", "m", "--out", "o", "--language", "xx"], "--language"),
        (["import", "nowhere", "f.json"], "nowhere: holds no study"),
        (["export", "nowhere", "csv", "--out", "f.csv"], "nowhere: holds no study"),
    ],
)
def test_mistakes_get_one_line(
    refusal: Callable[..., str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arguments: list[str], message: str
) -> None:
    monkeypatch.chdir(tmp_path)
    assert message in refusal("study", *arguments)
    assert list(tmp_path.iterdir()) == []


def test_a_broken_study_is_named(tmp_path: Path) -> None:
    directory = make_study(tmp_path, "count")
    values = json.loads((directory / "study.json").read_text())
    values["raters"][0]["tasks"][0]["item"] = "i9999"
    (directory / "study.json").write_text(json.dumps(values))
    with pytest.raises(InputError, match=r"study.json: task 0 of rater 'r01': there is no item 'i9999'"):
        read_study(directory)


def test_help_needs_no_heavy_import() -> None:
    code = (
        "import sys, contextlib, ifuvit.commands.study as s\n"
        "for a in ([], ['make', '--help'], ['serve', '--help']):\n"
        "    with contextlib.suppress(SystemExit): s.main(a)\n"
        "print([m for m in ('torch', 'fastapi', 'PIL', 'sqlite3') if m in sys.modules], file=sys.stderr)"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stderr.strip() == "[]" and "beyond doubt" in " ".join(result.stdout.replace("│", " ").split())
