"""The experiment: which commands it calls, what it skips, how it goes on after a kill, and what experiment.json says."""

from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from evaluation_stub import write_model, write_result

from ifuvit import results
from ifuvit.data import prepare
from ifuvit.data.config import PrepareConfig
from ifuvit.data.scenes import config as scenes
from ifuvit.data.scenes import write_scenes
from ifuvit.diffusion.objective import DDPM
from ifuvit.evaluation import run as evaluate
from ifuvit.evaluation.config import EvaluateConfig
from ifuvit.evaluation.evaluators.alignment import Alignment
from ifuvit.evaluation.evaluators.distances import Distances
from ifuvit.experiments import EXPERIMENTS, SCALES
from ifuvit.experiments import config as experiment_config
from ifuvit.experiments import plan as experiment_plan
from ifuvit.experiments import run as experiment
from ifuvit.experiments.config import ExperimentConfig
from ifuvit.experiments.outcome import summary
from ifuvit.experiments.plan import Plan
from ifuvit.model.presets import presets
from ifuvit.results import ExperimentResult
from ifuvit.training import loop as train
from ifuvit.training.config import AdamW, TrainConfig
from ifuvit.utils.config import to_dict
from ifuvit.utils.errors import InputError
from ifuvit.utils.files import lock, now, read_json, write_json, write_manifest

SETTINGS = ("concat-early", "concat-intermediate", "cross-early", "cross-intermediate")
TINY = replace(SCALES["smoke"], scenes=(1, 4), images=4)


class Kill(BaseException):
    """A process that ends at once."""


class Commands:
    """Stand-ins for the commands, which leave on the disk what an experiment looks for. `did` tells which were called."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.did: list[str] = []
        self.kill_before: str | None = None
        self.diverging: set[str] = set()
        self.trained: dict[str, TrainConfig] = {}
        for module in (experiment_config, experiment_plan):
            monkeypatch.setattr(module, "SCALES", {**SCALES, "smoke": TINY})
        monkeypatch.setattr(scenes, "run", self.scenes)
        monkeypatch.setattr(prepare, "run", self.prepare)
        monkeypatch.setattr(Distances, "prepare", lambda _: self.note("look"))
        monkeypatch.setattr(Alignment, "prepare", lambda _: None)
        monkeypatch.setattr(train, "train", self.train)
        monkeypatch.setattr(evaluate, "evaluate", self.evaluate)

    def note(self, what: str) -> None:
        if what == self.kill_before:
            self.kill_before = None
            raise Kill
        self.did.append(what)

    def scenes(self, config: scenes.ScenesConfig) -> None:
        self.note("scenes")
        write_scenes(config.out, size=32, train=config.train, val=config.val, seed=config.seed)
        write_manifest(config.out, "scenes", to_dict(config), started=now())

    def prepare(self, config: PrepareConfig) -> None:
        self.note(f"prepare {config.out.name}")
        assert config.source.captions.is_file() and config.source.images.is_dir()
        config.out.mkdir(parents=True)
        write_manifest(config.out, "prepare", to_dict(config), started=now(), fingerprint="f")

    def train(self, config: TrainConfig) -> None:
        self.note(f"train {config.out.name}")
        self.trained[config.out.name] = config
        if config.out.name in self.diverging:
            raise InputError(f"{config.out}: the loss is not a number at step 7")
        assert config.out.name.endswith(f"-seed-{config.recipe.start.seed}")
        write_model(config.out, config.out.name)
        write_json(config.out / "pipeline" / "training.json", {"steps": config.steps})
        write_manifest(
            config.out, "train", to_dict(config), started=now(), steps=config.steps, training_seconds=10.0, features="f"
        )

    def evaluate(self, config: EvaluateConfig) -> Path:
        assert config.out is not None
        self.note(f"evaluate {config.out.stem}")
        # Seeds differ by 1, settings by 10; so the means are known.
        name, seed = Path(config.targets[0]).name.rsplit("-seed-", 1)
        value = 10.0 * SETTINGS.index(name) + int(seed) - 1234 if name in SETTINGS else 0.0
        every = (one for experiment in EXPERIMENTS.values() for one in experiment.settings)
        setting = next(one for one in every if one.name == name)
        model = setting.at(replace(presets[TINY.preset], **TINY.model))
        return write_result(config, {"KID-EffNetLite0": value, "TwoTower score": -value}, to_dict(model))


@pytest.fixture
def commands(monkeypatch: pytest.MonkeyPatch) -> Commands:
    return Commands(monkeypatch)


def smoke(out: Path, **fields: Any) -> ExperimentConfig:
    return ExperimentConfig(**{"name": "table1", "scale": "smoke", "out": out, **fields})


def of_seed(seed: int, *settings: str) -> list[str]:
    return [f"{command} {setting}-seed-{seed}" for setting in settings or SETTINGS for command in ("train", "evaluate")]


BEFORE = ["scenes", "prepare train", "prepare val", "look"]


def test_a_whole_table(commands: Commands, tmp_path: Path) -> None:
    out = experiment.run(smoke(tmp_path / "out", seeds=2))
    assert commands.did == BEFORE + of_seed(1234) + of_seed(1235)
    found = read_json(out / "experiment.json")
    assert (found["command"], found["name"], found["scale"]) == ("experiment", "table1", "smoke")
    assert found["seeds"] == [1234, 1235] and results.from_file(out / "experiment.json", ExperimentResult).complete
    assert [row["name"] for row in found["table"]] == list(SETTINGS)
    for number, row in enumerate(found["table"]):
        kid = row["metrics"][0]
        assert (kid["name"], kid["interval_from"]) == ("KID-EffNetLite0", "Student's t over seeds")
        assert kid["value"] == 10 * number + 0.5 and kid["n"] == 2
        assert row["costs"]["parameters"] == 7
    late = found["table"][3]
    assert late["setting"] == {"conditioning": "cross", "n_text": 1, "n_image": 2} and late["in_the_paper"] == [1, 4]
    assert found["expected"]["rows"]["cross-intermediate"]["FID-30K"] == 5.68
    assert {entry["status"] for entry in found["runs"]} == {"done"} and len(found["runs"]) == 8
    for entry in found["runs"]:
        assert (out / entry["run"] / "pipeline").is_dir()
        assert read_json(out / entry["result"])["target"]["name"] == Path(entry["run"]).name
    # In the stand-in's numbers every setting is 10 worse than the one before it.
    assert len(found["verdicts"]) == 6
    for claim in found["verdicts"]:
        # The same in both seeds, but for counts, in which no setting differs.
        assert claim["verdict"] == ("undecided" if "counts" in claim["metric"] else "does not hold")
        assert abs(claim["difference"]["value"]) == (0 if "counts" in claim["metric"] else 10)
        assert claim["differences"] == [claim["difference"]["value"]] * 2


def test_one_seed_keeps_the_evaluations_interval(commands: Commands, tmp_path: Path) -> None:
    out = experiment.run(smoke(tmp_path / "out"))
    kid = results.from_file(out / "experiment.json", ExperimentResult).table[1].metrics[0]
    assert (kid.name, kid.value, kid.interval) == ("KID-EffNetLite0", 10.0, (9.0, 11.0))
    assert (kid.interval_from, kid.n) == ("bootstrap over images", 9)


STAGES = BEFORE + of_seed(1234, "concat-early", "cross-early")


@pytest.mark.parametrize("kill_before", STAGES)
def test_goes_on_where_it_was_killed(commands: Commands, tmp_path: Path, kill_before: str) -> None:
    config = smoke(tmp_path / "out", only=("concat-early", "cross-early"))
    commands.kill_before = kill_before
    with pytest.raises(Kill):
        experiment.run(config)
    assert commands.did == STAGES[: STAGES.index(kill_before)]
    partial = results.from_file(config.out / "experiment.json", ExperimentResult)
    assert not partial.complete
    assert len(partial.table) == sum(name.startswith("evaluate") for name in commands.did)
    experiment.run(config)
    assert commands.did == STAGES  # each exactly once
    experiment.run(config)
    assert commands.did == STAGES


def test_more_seeds_later(commands: Commands, tmp_path: Path) -> None:
    config = smoke(tmp_path / "out")
    experiment.run(config)
    commands.did.clear()
    experiment.run(replace(config, seeds=2))
    assert commands.did == of_seed(1235)
    with pytest.raises(InputError, match="2 seeds; give --seeds 2 or more"):
        experiment.run(config)


def test_a_failed_run_is_told_and_the_others_are_done(
    commands: Commands, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = smoke(tmp_path / "out", seeds=2)
    commands.diverging = {"cross-early-seed-1234"}
    with pytest.raises(InputError, match="1 of 8 runs failed, such as cross-early, seed 1234 .*not a number at step 7"):
        experiment.run(config)
    assert "train cross-early, seed 1234 failed" in capsys.readouterr().err
    assert "evaluate cross-early-seed-1234" not in commands.did and "evaluate cross-early-seed-1235" in commands.did
    found = results.from_file(config.out / "experiment.json", ExperimentResult)
    (failed,) = [run for run in found.runs if run.status == "failed"]
    assert (failed.setting, failed.seed) == ("cross-early", 1234) and "step 7" in (failed.reason or "")
    assert not found.complete and {row.name: row.seeds for row in found.table}["cross-early"] == (1235,)
    assert "failed: cross-early, seed 1234:" in summary(found)
    # A call for other settings does not forget it; the next try that succeeds does.
    commands.diverging.clear()
    commands.did.clear()
    experiment.run(replace(config, only=("concat-early",)))
    again = results.from_file(config.out / "experiment.json", ExperimentResult)
    assert [run.status for run in again.runs].count("failed") == 1
    experiment.run(config)
    assert commands.did == ["train cross-early-seed-1234", "evaluate cross-early-seed-1234"]
    assert results.from_file(config.out / "experiment.json", ExperimentResult).complete


def test_the_papers_recipe_at_this_scale_has_runs_of_its_own(commands: Commands, tmp_path: Path) -> None:
    only, runs = ("cross-early",), tmp_path / "runs"
    experiment.run(smoke(tmp_path / "modern", only=only, runs=runs))
    modern = commands.trained["cross-early-seed-1234"]
    commands.did.clear()
    out = experiment.run(smoke(tmp_path / "paper", only=only, runs=runs, recipe="paper"))
    assert commands.did == [
        "prepare train",
        "prepare val",
        "train cross-early-seed-1234",
        "evaluate cross-early-seed-1234",
    ]
    assert results.from_file(out / "experiment.json", ExperimentResult).recipe == "paper"
    paper = commands.trained["cross-early-seed-1234"]
    assert paper.out != modern.out and paper.data.data != modern.data.data
    recipe, drawn = paper.recipe, modern.recipe
    assert recipe.objective == DDPM() and recipe.optimizer == AdamW(learning_rate=1.5e-3)
    assert recipe.batches.latent_normalization == "scalar" and not recipe.model.mask_padding
    assert recipe.model.text_norm == "none" and recipe.layout.layout_weight == drawn.layout.layout_weight == 0
    assert (paper.steps, recipe.schedule, recipe.ema, recipe.start) == (
        modern.steps,
        drawn.schedule,
        drawn.ema,
        drawn.start,
    )
    with pytest.raises(InputError, match="recipe paper, not modern"):
        experiment.run(smoke(tmp_path / "paper", only=only, runs=runs))


def test_calls_at_the_same_time_share_the_runs(
    commands: Commands, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A second call, while the first one trains its first run, does all the others, and leaves that one alone."""
    config, train_one = smoke(tmp_path / "out", seeds=2), commands.train

    def train_while_another_call_works(run: TrainConfig) -> None:
        if not commands.trained:
            commands.trained["first"] = run
            experiment.run(config)
            assert "other calls are at 1 of the runs" in capsys.readouterr().err
            found = results.from_file(config.out / "experiment.json", ExperimentResult)
            assert [one.status for one in found.runs] == ["missing"] + 7 * ["done"]
        train_one(run)

    train.train = train_while_another_call_works  # the fixture puts back what stood there before it
    experiment.run(config)
    assert len(commands.did) == len(set(commands.did)) == 4 + 16
    assert results.from_file(config.out / "experiment.json", ExperimentResult).complete


def test_what_all_runs_need_is_waited_for(commands: Commands, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Another call draws the scenes until this one has slept once."""
    config, slept = smoke(tmp_path / "out", only=("cross-early",)), []
    with ExitStack() as other:
        other.enter_context(lock(Plan(config).data))

        def sleep(seconds: float) -> None:
            slept.append(seconds)
            other.close()

        monkeypatch.setattr(experiment.time, "sleep", sleep)
        experiment.run(config)
    assert len(slept) == 1 and commands.did == BEFORE + of_seed(1234, "cross-early")


def test_the_atlas_is_of_equal_flops_and_scored_by_skill(commands: Commands, tmp_path: Path) -> None:
    config = smoke(tmp_path / "out", name="atlas", only=("mmdit-early", "cross-intermediate"), runs=tmp_path / "runs")
    experiment.run(config)
    assert results.from_file(config.out / "experiment.json", ExperimentResult).equal == "flops"
    wide, narrow = (commands.trained[f"{name}-seed-1234"] for name in ("cross-intermediate", "mmdit-early"))
    assert wide.out.parent.name == "runs-equal-flops"
    assert narrow.recipe.model.embed_dim < wide.recipe.model.embed_dim == 48
    assert (
        Plan(replace(config, scale="openmoji")).evaluate_config(EXPERIMENTS["atlas"].settings[0], 1234).protocol
        == "skills"
    )
    assert Plan(replace(config, equal="parameters")).run_directory(EXPERIMENTS["atlas"].settings[0], 1234) != wide.out


@pytest.mark.parametrize("name", ["n_text", "position"])
def test_further_experiments_run_to_their_verdicts(commands: Commands, tmp_path: Path, name: str) -> None:
    out = experiment.run(smoke(tmp_path / "out", name=name))
    found = results.from_file(out / "experiment.json", ExperimentResult)
    settings = [setting.name for setting in EXPERIMENTS[name].settings]
    assert found.complete and [row.name for row in found.table] == settings
    assert found.verdicts and {one.verdict for one in found.verdicts} == {"undecided"}  # of one seed


def test_only(commands: Commands, tmp_path: Path) -> None:
    config = smoke(tmp_path / "out")
    experiment.run(replace(config, only=("cross-early",)))
    assert commands.did == BEFORE + of_seed(1234, "cross-early")
    found = read_json(config.out / "experiment.json")
    assert [row["name"] for row in found["table"]] == ["cross-early"]
    assert [entry["status"] for entry in found["runs"]] == ["missing", "missing", "done", "missing"]
    commands.did.clear()
    experiment.run(config)
    assert commands.did == of_seed(1234, "concat-early", "concat-intermediate", "cross-intermediate")


def test_experiments_share_runs(commands: Commands, tmp_path: Path) -> None:
    experiment.run(smoke(tmp_path / "table1", runs=tmp_path / "runs"))
    commands.did.clear()
    out = experiment.run(smoke(tmp_path / "ablation", name="ablation", runs=tmp_path / "runs"))
    trained = [what for what in commands.did if what.startswith("train")]
    alone = ("concat-text-block", "concat-middle", "cross-text-block", "cross-middle")
    assert trained == [f"train {name}-seed-1234" for name in alone]
    assert len(commands.did) == 4 + 8  # all are judged for this experiment, nothing is drawn or prepared again
    rows = read_json(out / "experiment.json")["table"]
    assert [(row["setting"]["n_text"], row["setting"]["n_image"]) for row in rows] == [
        (0, 0),
        (1, 0),
        (0, 2),
        (1, 2),
    ] * 2


def test_guidance_sweep(commands: Commands, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    short = {"guidance_sweep": replace(EXPERIMENTS["guidance_sweep"], guidance_scales=(1.0, 3.0))}
    for module in (experiment_config, experiment_plan):
        monkeypatch.setattr(module, "EXPERIMENTS", short)
    config = smoke(tmp_path / "out", name="guidance_sweep", seeds=2)
    commands.kill_before = "evaluate concat-intermediate-seed-1234-w3"
    with pytest.raises(Kill):
        experiment.run(replace(config, only=SETTINGS[:2]))
    assert len(read_json(config.out / "sweeps" / "seed-1234" / "sweep.json")["points"]) == 3
    experiment.run(replace(config, only=SETTINGS[:2]))
    assert sum(what.startswith("evaluate") for what in commands.did) == 8  # 2 settings, 2 seeds, 2 scales
    experiment.run(config)
    assert len(commands.did) == len(set(commands.did)) == 4 + 8 + 16
    found = read_json(config.out / "experiment.json")
    assert {run["status"] for run in found["runs"]} == {"done"} and found["verdicts"] == []
    assert [(row["name"], row["guidance_scale"]) for row in found["table"]] == [
        (setting, scale) for setting in SETTINGS for scale in (1.0, 3.0)
    ]
    for entry in found["runs"]:
        curve = read_json(config.out / entry["result"])
        assert curve["kind"] == "sweep" and not curve["missing"] and len(curve["points"]) == 8
    # A call for one setting alone leaves the others' points in the file.
    experiment.run(replace(config, only=SETTINGS[:1]))
    assert len(read_json(config.out / "sweeps" / "seed-1235" / "sweep.json")["points"]) == 8


def test_a_run_trained_further_is_evaluated_again(commands: Commands, tmp_path: Path) -> None:
    config = smoke(tmp_path / "out", only=("cross-early",))
    experiment.run(config)
    weights = config.out / "runs" / "cross-early-seed-1234" / "pipeline" / "transformer" / "model.safetensors"
    weights.write_text("other weights")
    commands.did.clear()
    experiment.run(config)
    assert commands.did == ["evaluate cross-early-seed-1234"]


@pytest.mark.parametrize(
    ("other", "message"),
    [
        ({"name": "ablation"}, "holds an experiment with name table1, not ablation"),
        ({"scale": "openmoji"}, "scale smoke, not openmoji"),
        ({"steps": 7}, "steps None, not 7"),
        ({"images": 3}, "images None, not 3"),
    ],
)
def test_a_directory_belongs_to_one_plan(
    commands: Commands, tmp_path: Path, other: dict[str, Any], message: str
) -> None:
    config = smoke(tmp_path / "out", only=("cross-early",))
    experiment.run(config)
    commands.did.clear()
    with pytest.raises(InputError, match=message):
        experiment.run(replace(config, **other))
    assert commands.did == []


def test_shared_runs_are_not_trained_to_another_length(commands: Commands, tmp_path: Path) -> None:
    from ifuvit.utils.files import write_json

    config = smoke(tmp_path / "out", only=("cross-early",), runs=tmp_path / "runs", steps=5)
    run = tmp_path / "runs" / "runs" / "cross-early-seed-1234"
    run.mkdir(parents=True)
    write_json(run / "config.json", {"config": {"steps": 9}})
    with pytest.raises(InputError, match="is a run of 9 steps, not 5"):
        experiment.run(config)


def test_a_directory_of_something_else(commands: Commands, tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("mine")
    with pytest.raises(InputError, match="holds something else already"):
        experiment.run(smoke(tmp_path))
    (tmp_path / "experiment.json").write_text("[]")
    with pytest.raises(InputError, match="holds something else already"):
        experiment.run(smoke(tmp_path))
    assert commands.did == []


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        (
            {"name": "table2"},
            "unknown experiment 'table2'; the experiments are table1, ablation, n_text, position, guidance_sweep, atlas",
        ),
        ({"scale": "huge"}, "unknown scale 'huge'; the scales are smoke, small, openmoji, paper"),
        ({"seeds": 0}, "--seeds 0: must be at least 1"),
        ({"only": ("cross",)}, "--only cross: no setting of table1"),
        ({"scale": "paper"}, "--scale paper needs --data DIR"),
        ({"data": Path("coco")}, "is for --scale paper"),
    ],
)
def test_impossible_requests(tmp_path: Path, fields: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        smoke(tmp_path, **fields)


def test_dry_run_tells_and_does_nothing(commands: Commands, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config = smoke(tmp_path / "out", only=("concat-early", "cross-early"))
    experiment.run(replace(config, dry_run=True))
    told = capsys.readouterr().out
    assert told.count("  missing  ") == 8 and "  done  " not in told and "\nmissing: about" in told
    assert commands.did == [] and not config.out.exists()

    commands.kill_before = "evaluate cross-early-seed-1234"
    with pytest.raises(Kill):
        experiment.run(config)
    before = (config.out / "experiment.json").read_bytes()
    capsys.readouterr()
    experiment.run(replace(config, dry_run=True))
    told = capsys.readouterr().out
    assert told.count("  done  ") == 7 and told.count("  missing  ") == 1
    assert (config.out / "experiment.json").read_bytes() == before
    experiment.run(config)
    capsys.readouterr()
    experiment.run(replace(config, dry_run=True))
    assert capsys.readouterr().out.endswith("nothing is missing\n")


def test_predictions_follow_the_runs_that_are_finished(commands: Commands, tmp_path: Path) -> None:
    """The stand-in's training takes 10 seconds: then so does a setting of the same cost, and a dearer one longer."""
    config = smoke(tmp_path / "out")
    experiment.run(replace(config, only=("cross-early",)))
    seconds = {stage.what: stage.seconds for stage in Plan(replace(config, seeds=2)).stages()}
    assert seconds["train cross-early, seed 1235"] == pytest.approx(10.0)
    assert 10.0 < seconds["train concat-early, seed 1234"] < 20.0


def test_paper_scale_takes_the_papers_recipe(tmp_path: Path) -> None:
    plan = Plan(ExperimentConfig(name="table1", scale="paper", data=tmp_path / "coco", out=tmp_path, seeds=2))
    setting = plan.experiment.settings[3]
    config = plan.train_config(setting, 1235)
    recipe = config.recipe
    assert (config.steps, recipe.batches.batch_size, recipe.start.seed) == (1_000_000, 256, 1235)
    assert recipe.optimizer.learning_rate == 2e-4
    assert recipe.model.embed_dim == 512 and recipe.model.n_image == 4
    features = plan.prepare_config("val")
    assert features.source.images == tmp_path / "coco" / "val2014" and features.text == "tokens"
    assert features.source.captions == tmp_path / "coco" / "annotations" / "captions_val2014.json"
    judged = plan.evaluate_config(setting, 1234)
    assert judged.resolved_protocol().name == "paper" and judged.data == tmp_path / "coco"
    assert plan.scenes_done() and "scenes" not in plan.stages()[0].what


def test_command_line(
    commands: Commands, ifuvit: Callable[..., Any], refusal: Callable[..., str], tmp_path: Path
) -> None:
    out = tmp_path / "out"
    arguments = ["experiment", "table1", "--scale", "smoke", "--out", str(out), "--only", "cross-early", "concat-early"]
    told = ifuvit(*arguments)
    assert "cross-early" in told.out and str(out / "experiment.json") in told.out
    assert told.err.count("\n") == 8 and "[8/8] evaluate cross-early, seed 1234" in told.err
    assert "cross" in refusal(*arguments[:-2], "cross")


@pytest.mark.slow
def test_the_real_commands(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing stands in for anything: one setting of a few steps, interrupted in training, and once more for nothing."""
    import signal

    from ifuvit.training import checkpoint

    small = {"steps": 6, "save_every": 2, "validate_every": 0, "evaluate_every": 0, "warmup_steps": 2, "batch_size": 4}
    scale = replace(SCALES["smoke"], recipe=small, scenes=(32, 40), images=20, sampling=SCALES["smoke"].sampling)
    for module in (experiment_config, experiment_plan):
        monkeypatch.setattr(module, "SCALES", {"smoke": scale})
    write, written = checkpoint.write, []

    def write_and_terminate(*arguments: Any, **keywords: Any) -> Path:
        written.append(write(*arguments, **keywords))
        if len(written) == 1:
            signal.raise_signal(signal.SIGTERM)
        return written[-1]

    monkeypatch.setattr(checkpoint, "write", write_and_terminate)
    config = smoke(tmp_path / "out", only=("cross-intermediate",))
    with pytest.raises(SystemExit) as stop:
        experiment.run(config)
    assert stop.value.code == 143
    assert read_json(config.out / "experiment.json")["table"] == []
    experiment.run(config)
    found = read_json(config.out / "experiment.json")
    (row,) = found["table"]
    assert row["name"] == "cross-intermediate" and row["setting"]["n_image"] == 2 and row["costs"]["parameters"] > 0
    assert set(found["headline"].values()) <= {one["name"] for one in row["metrics"]}
    assert row["metrics"][0]["reference"]["n"] == 20
    before = {path: path.stat().st_mtime_ns for path in config.out.rglob("*") if path.is_file()}
    experiment.run(config)
    after = {path: path.stat().st_mtime_ns for path in config.out.rglob("*") if path.is_file()}
    assert {path for path in after if after[path] != before.get(path)} == {config.out / "experiment.json"}
