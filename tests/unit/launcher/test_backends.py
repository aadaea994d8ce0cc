from __future__ import annotations

import json
import logging
import os
import shlex
import signal
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from sample_factory.algo.utils.misc import ExperimentStatus
from sample_factory.launcher import run as launcher
from sample_factory.launcher.outcomes import Outcome, describe_exit, last_line, outcome_table
from sample_factory.launcher.run_description import Experiment, ParamGrid, RunDescription
from sample_factory.launcher.run_ngc import ngc_argv, run_ngc
from sample_factory.launcher.run_processes import run
from sample_factory.launcher.run_slurm import run_slurm
from sample_factory.utils.utils import log

# Writes what it was given to <train_dir>/<experiment>.json and exits with --code.
PROGRAM = """
import json, os, sys
flags = dict(arg.lstrip("-").split("=", 1) for arg in sys.argv[1:])
with open(os.path.join(flags["train_dir"], flags["experiment"] + ".json"), "w") as file:
    json.dump({"flags": flags, "env": dict(os.environ)}, file)
sys.exit(int(flags.get("code", 0)))
"""


@pytest.fixture
def command(tmp_path: Path) -> str:
    path = tmp_path / "program with space.py"
    path.write_text(PROGRAM)
    return f"python {shlex.quote(str(path))}"


@pytest.fixture
def messages():
    records: list[str] = []

    class Collect(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            records.append(record.getMessage())

    handler = Collect()
    log.addHandler(handler)
    yield records
    log.removeHandler(handler)


def parse(tmp_path: Path, *argv: str):
    args = ["--train_dir", str(tmp_path / "t"), "--pause_between=0", *argv]
    return launcher.launcher_argparser(args).parse_args(args)


def results(tmp_path: Path) -> dict[str, dict]:
    return {path.stem: json.loads(path.read_text()) for path in (tmp_path / "t").rglob("*.json")}


@pytest.mark.multiproc
def test_processes_get_their_arguments_and_environment(tmp_path: Path, command: str):
    grid = ParamGrid([("text", ["a b; touch hacked", "x"])])
    experiment = Experiment("e", command, grid.generate_params(False), env_vars={"MY_VAR": "$HOME"})
    status = run(RunDescription("r", [experiment]), parse(tmp_path, "--experiments_per_gpu=1", "--num_gpus=2"))
    assert status == ExperimentStatus.SUCCESS
    found = results(tmp_path)
    assert [found[name]["flags"]["text"] for name in sorted(found)] == ["a b; touch hacked", "x"]
    assert {result["env"]["MY_VAR"] for result in found.values()} == {"$HOME"}
    assert {result["env"]["CUDA_VISIBLE_DEVICES"] for result in found.values()} == {"0", "1"}


@pytest.mark.multiproc
def test_failures_reach_the_exit_code_and_others_go_on(tmp_path: Path, command: str, messages):
    experiments = [
        Experiment("bad", command, [{"code": 3}]),
        Experiment("missing", "no_such_program_anywhere"),
        Experiment("good", command, [{"code": 0}]),
    ]
    status = run(RunDescription("r", experiments), parse(tmp_path, "--max_parallel=1"))
    assert status == ExperimentStatus.FAILURE
    assert set(results(tmp_path)) == {"00_bad_cod_3", "00_good_cod_0"}
    header, title, *rows = messages[-1].splitlines()
    assert header == "2 of 3 experiments failed:" and title.split() == ["experiment", "exit", "cause"]
    assert rows[0].split()[:2] == ["00_bad_cod_3", "3"]
    assert rows[1].split()[:2] == ["00_missing", "-"] and "could not be started" in rows[1]


def test_cuda_devices_are_left_alone_by_default(tmp_path: Path, command: str, monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "7")
    run(RunDescription("r", [Experiment("e", command)]), parse(tmp_path))
    assert results(tmp_path)["00_e"]["env"]["CUDA_VISIBLE_DEVICES"] == "7"


def test_causes(tmp_path: Path):
    (tmp_path / "sf_log.txt").write_text("first\nValueError: too bad\n\n")
    assert describe_exit(0, str(tmp_path)) == ""
    assert describe_exit(1, str(tmp_path)) == "ValueError: too bad"
    assert describe_exit(1, str(tmp_path / "absent")) == "see its output above"
    assert describe_exit(-9, str(tmp_path)) == "killed by SIGKILL"
    (tmp_path / "long").write_text("x" * 100000)
    assert len(last_line(str(tmp_path / "long"))) == 160
    assert "ok" not in outcome_table([Outcome("ok", 0), Outcome("bad", 1, "why")])


STOPPABLE = """
import signal, sys, time
from pathlib import Path
folder = next(Path(arg.split("=", 1)[1]) for arg in sys.argv if arg.startswith("--train_dir="))
def stop(*_):
    (folder / "stopped").touch()
    sys.exit(2)
signal.signal(signal.SIGTERM, stop)
print("started", flush=True)
time.sleep(100)
"""

LAUNCH = """
import sys
from pathlib import Path
from sample_factory.launcher import run as launcher
from sample_factory.launcher.run_description import Experiment, RunDescription
from sample_factory.launcher.run_processes import run
args = launcher.launcher_argparser(sys.argv[1:]).parse_args(sys.argv[1:])
sys.exit(run(RunDescription("r", [Experiment("e", "python stoppable.py")]), args))
"""


@pytest.mark.multiproc
def test_sigterm_stops_the_experiments(tmp_path: Path):
    (tmp_path / "stoppable.py").write_text(STOPPABLE)
    repository = str(Path(launcher.__file__).resolve().parents[2])
    env = {**os.environ, "PYTHONPATH": repository}
    argv = [sys.executable, "-c", LAUNCH, "--train_dir=t", "--pause_between=0"]
    with subprocess.Popen(argv, cwd=tmp_path, env=env, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout.readline() == "started\n"
        process.send_signal(signal.SIGTERM)
        assert process.wait(timeout=30) == ExperimentStatus.INTERRUPTED
    assert (tmp_path / "t" / "r" / "e_" / "stopped").exists()


def executable(path: Path, text: str) -> None:
    path.write_text(f"#!{sys.executable}\n{text}")
    path.chmod(path.stat().st_mode | stat.S_IEXEC)


FAKE_SBATCH = """
import json, sys, pathlib
log = pathlib.Path(__file__).with_name("calls.jsonl")
with log.open("a") as file:
    file.write(json.dumps(sys.argv[1:]) + "\\n")
if "02_" in sys.argv[-1]:
    sys.exit("no such partition")
print(f"10{sum(1 for _ in log.open())};cluster")
"""


@pytest.fixture
def sbatch(tmp_path: Path, monkeypatch) -> Path:
    folder = tmp_path / "bin"
    folder.mkdir()
    executable(folder / "sbatch", FAKE_SBATCH)
    monkeypatch.setenv("PATH", f"{folder}:{os.environ['PATH']}")
    return folder / "calls.jsonl"


def slurm_run(command: str, num_runs: int = 2) -> RunDescription:
    grid = ParamGrid([("text", ["a b", "$HOME", "third"][:num_runs])])
    return RunDescription("r", [Experiment("e", command, grid.generate_params(False), env_vars={"MY_VAR": "1 2"})])


@pytest.mark.multiproc
def test_q35_the_default_slurm_job_runs_the_command(tmp_path: Path, command: str, sbatch: Path):
    args = parse(tmp_path, "--backend=slurm", "--slurm_partition=gpu", "--slurm_gpus_per_job=2")
    assert run_slurm(slurm_run(command), args) == ExperimentStatus.SUCCESS

    workdir = tmp_path / "t" / "r" / "slurm"
    job_files = sorted(workdir.glob("sbatch_*.sh"))
    assert [path.name for path in job_files] == ["sbatch_00_e_tex_a_b.sh", "sbatch_01_e_tex__HOME.sh"]
    calls = [json.loads(line) for line in sbatch.read_text().splitlines()]
    assert calls[0] == [
        *["-p", "gpu", "--gres=gpu:2", "-c", "28", "--parsable"],
        *["--output", f"{job_files[0]}-slurm-%j.out", str(job_files[0])],
    ]
    assert (workdir / "scancel.sh").read_text() == "#!/bin/bash\nscancel 101 102\n"

    for job_file in job_files:
        subprocess.run(["bash", str(job_file)], check=True)
    found = results(tmp_path)
    assert [found[name]["flags"]["text"] for name in sorted(found)] == ["a b", "$HOME"]
    assert found["00_e_tex_a_b"]["env"]["MY_VAR"] == "1 2"


@pytest.mark.multiproc
def test_slurm_job_that_times_out_is_submitted_again(tmp_path: Path, sbatch: Path):
    args = parse(tmp_path, "--backend=slurm", "--slurm_timeout=0.1", f"--slurm_workdir={tmp_path / 'w'}")
    assert run_slurm(RunDescription("r", [Experiment("e", "sleep 100 #")]), args) == ExperimentStatus.SUCCESS
    (job_file,) = (tmp_path / "w").glob("sbatch_*.sh")
    assert subprocess.run(["bash", str(job_file)]).returncode == 124
    first, second = [json.loads(line) for line in sbatch.read_text().splitlines()]
    assert first == second


def test_slurm_failures_reach_the_exit_code(tmp_path: Path, command: str, sbatch: Path, messages):
    status = run_slurm(slurm_run(command, 3), parse(tmp_path, "--backend=slurm"))
    assert status == ExperimentStatus.FAILURE
    assert "no such partition" in messages[-1] and "1 of 3 jobs" in messages[-1]


def test_slurm_template_and_print_only(tmp_path: Path, sbatch: Path):
    template = tmp_path / "template.sh"
    template.write_text("activate $HOME $?\n$CMD\n# $FILENAME $PARTITION$GPU $CPU $TIMEOUT $$x\n")
    args = parse(tmp_path, "--backend=slurm", f"--slurm_sbatch_template={template}", "--slurm_print_only=True")
    assert run_slurm(RunDescription("r", [Experiment("e", "python x.py")]), args) == ExperimentStatus.SUCCESS
    (job_file,) = (tmp_path / "t" / "r" / "slurm").glob("*.sh")
    assert job_file.read_text() == (
        f"activate $HOME $?\npython x.py --experiment=00_e --train_dir={tmp_path}/t/r/e_\n# {job_file} 1 14 0 $x\n"
    )
    assert not sbatch.exists()

    args.slurm_sbatch_template = "/no/such/file"
    with pytest.raises(ValueError, match="--slurm_sbatch_template='/no/such/file' cannot be read"):
        run_slurm(slurm_run("python x.py"), args)


TEMPLATE = (
    'ngc batch run --name "{{name}}" \\\n  --commandline "cd /x; {{ experiment_cmd }}" \\\n  --label {{ name }}\n'
)


def test_ngc_command_needs_no_shell():
    assert ngc_argv(TEMPLATE, "n;m", 'python x --a="b c"') == [
        *["ngc", "batch", "run", "--name", "n;m"],
        *["--commandline", 'cd /x; python x --a="b c"', "--label", "n;m"],
    ]


def test_q35_ngc_without_template_says_so(tmp_path: Path):
    with pytest.raises(ValueError, match="--ngc_job_template is missing"):
        run_ngc(slurm_run("python x.py"), parse(tmp_path, "--backend=ngc"))


@pytest.mark.multiproc
def test_ngc_submission(tmp_path: Path, monkeypatch, messages):
    executable(
        tmp_path / "ngc", "import sys; sys.exit('refused' if '--label' in sys.argv and '01_' in sys.argv[-1] else 0)"
    )
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    template = tmp_path / "template.txt"
    template.write_text(TEMPLATE)
    args = parse(tmp_path, "--backend=ngc", f"--ngc_job_template={template}")
    assert run_ngc(slurm_run("python x.py"), args) == ExperimentStatus.FAILURE
    assert "refused" in messages[-1] and "1 of 2 jobs" in messages[-1]
    args.ngc_print_only = True
    assert run_ngc(slurm_run("python x.py"), args) == ExperimentStatus.SUCCESS


def test_options_belong_to_their_backend():
    def options(*argv: str) -> dict:
        return vars(launcher.launcher_argparser(argv).parse_args(argv))

    assert options() == {
        "train_dir": "./train_dir",
        "run": None,
        "backend": "processes",
        "pause_between": 1,
        "experiment_suffix": "",
        "num_gpus": 1,
        "max_parallel": 4,
        "experiments_per_gpu": -1,
    }
    assert options("--backend=ngc")["pause_between"] == 0
    slurm = options("--backend", "slurm")
    assert (slurm["slurm_cpus_per_gpu"], slurm["slurm_timeout"], slurm["slurm_workdir"]) == (14, "0", None)


RUN_MODULE = """
from sample_factory.launcher.run_description import Experiment, RunDescription
RUN_DESCRIPTION = RunDescription("r", [Experiment("e", {command!r})])
"""


@pytest.mark.parametrize(
    ("code", "module", "expected"),
    [
        (0, "my_test_run_module", ExperimentStatus.SUCCESS),
        (1, "my_test_run_module", ExperimentStatus.FAILURE),
        (0, "no_such_run_module", launcher.EXIT_CODE_USAGE_ERROR),
        (0, "json", launcher.EXIT_CODE_USAGE_ERROR),
        (0, None, launcher.EXIT_CODE_USAGE_ERROR),
    ],
)
def test_main(tmp_path: Path, monkeypatch, command: str, code: int, module: str | None, expected: int):
    (tmp_path / "my_test_run_module.py").write_text(RUN_MODULE.format(command=f"{command} --code={code}"))
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(sys.modules, "my_test_run_module", raising=False)
    argv = ["run.py", f"--train_dir={tmp_path / 't'}", "--pause_between=0", "--experiment_suffix=s"]
    monkeypatch.setattr(sys, "argv", argv + ([f"--run={module}"] if module else []))
    assert launcher.main() == expected
    ran = module == "my_test_run_module"
    assert (tmp_path / "t" / "r" / "e_s" / "00_e.json").exists() == ran


@pytest.mark.parametrize(
    ("module", "exit_code", "text", "has_traceback"),
    [
        ("nope", 2, "--run=nope: there is no module nope", False),
        ("folder.nope", 2, "there is no module folder.nope", False),
        ("nope.runs", 2, "there is no module nope", False),
        (".runs", 2, "--run needs the name of the module", False),
        ("broken", 1, "No module named 'not_installed'", True),
    ],
)
def test_modules_that_cannot_be_imported(tmp_path: Path, monkeypatch, capsys, module, exit_code, text, has_traceback):
    """A wrong name is one line; what is wrong inside of the module has a traceback."""
    (tmp_path / "broken.py").write_text("import not_installed\n")
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "__init__.py").touch()
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setattr(sys, "argv", ["run.py", f"--run={module}"])
    assert launcher.main() == exit_code
    error = capsys.readouterr().err
    assert text in error
    assert ("Traceback" in error) == has_traceback and (has_traceback or len(error.splitlines()) == 1)
