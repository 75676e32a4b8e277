"""The folder of one study: its configuration, the stages that are finished, and where the unfinished one stands.

    RUN/config.json           what was asked for; only what no finished stage has used can be changed
    RUN/manifest.json         versions and devices; SHA-256 of the configuration and of each finished stage's files
    RUN/<stage>/...           what a stage made
    RUN/checkpoints/...       rolling state of a long stage; gone when the stage is finished
    RUN/timing.json           seconds spent, by stage
    RUN/.lock                 held by the process that writes; the kernel frees it when that process dies

A stage is finished at the moment when the manifest that names it is renamed into place.
"""

import contextlib
import hashlib
import json
import os
import shutil
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

import jaxgeo
from jaxgeo import files, locks
from jaxgeo.config_files import from_dict, to_dict
from jaxgeo.errors import ConfigError, CorruptFileError, RunFolderError
from jaxgeo.study.config import StudyConfig

FORMAT_VERSION = 1
_CHECKPOINTS = "checkpoints"
# Parts of the configuration that no rolling state depends on.
_LATE_PARTS = ("export", "report", "run")


class RunFolder:
    """One study on disk, locked for this process; use as a context manager or call `close`."""

    path: Path
    config: StudyConfig

    def __init__(self, path: Path, config: StudyConfig, lock: int) -> None:
        """Use `create`, `open` or `create_or_open`."""
        self.path, self.config, self._lock = path, config, lock

    @classmethod
    def create(cls, path: Path, config: StudyConfig) -> "RunFolder":
        """Make an empty run.

        Raises:
            RunFolderError: the folder is not empty, cannot be written, or another process holds it.
        """
        path = files.make_folder(Path(path))
        if (path / "manifest.json").exists():
            raise RunFolderError(
                f"{path} holds a run already; go on with it by: jaxgeo study --resume {path}, or choose another folder"
            )
        if not _is_newborn(path):
            raise RunFolderError(f"{path} is not empty and no run; choose a folder that is empty or does not exist")
        run = cls(path, config, locks.hold(path))
        try:
            files.write_json_atomically(path / "config.json", to_dict(config))
            run._begin_manifest()
        except BaseException:
            run.close()
            raise
        return run

    @classmethod
    def open(cls, path: Path) -> "RunFolder":
        """Go on with a run.

        Raises:
            RunFolderError: no run lies there, it is from another version, or another process holds it.
            CorruptFileError: its manifest or its configuration is damaged.
        """
        path = Path(path)
        run = cls(path, read_config(path), locks.hold(path))
        try:
            # Again, now that nobody else can change it.
            run.config = read_config(path)
            for folder in [path, *(entry for entry in path.iterdir() if entry.is_dir())]:
                files.remove_leftovers(folder)
            if not (path / "manifest.json").exists():
                run._begin_manifest()
            for stage in run._manifest()["stages"]:
                run.drop_checkpoints(stage)
        except BaseException:
            run.close()
            raise
        return run

    def close(self) -> None:
        """Free the lock."""
        if self._lock >= 0:
            os.close(self._lock)
            self._lock = -1

    def __enter__(self) -> "RunFolder":
        """The run itself."""
        return self

    def __exit__(self, *exception: type[BaseException] | BaseException | TracebackType | None) -> None:
        """Free the lock."""
        self.close()

    def _manifest(self) -> dict[str, Any]:
        return _read_manifest(self.path)

    def _write_manifest(self, **changes: Any) -> None:
        files.write_json_atomically(self.path / "manifest.json", self._manifest() | changes)

    def _begin_manifest(self) -> None:
        content = {
            "format": FORMAT_VERSION,
            "library": jaxgeo.__version__,
            "config_sha256": [files.file_sha256(self.path / "config.json")],
            "surroundings": {},
            "stages": {},
        }
        files.write_json_atomically(self.path / "manifest.json", content)

    def change_settings(self, config: StudyConfig) -> None:
        """Write another configuration; the caller knows that no finished stage has used what differs.

        Raises:
            RunFolderError: the folder cannot be written.
        """
        if config == self.config:
            return
        path = self.path / "config.json"
        before, after = files.file_sha256(path), hashlib.sha256(files.json_bytes(to_dict(config))).hexdigest()
        # Both are right while the file is exchanged: a process may be killed at any line.
        self._write_manifest(config_sha256=[before, after])
        files.write_json_atomically(path, to_dict(config))
        self._write_manifest(config_sha256=[after])
        self.config = config

    def surroundings(self, now: Mapping[str, Any]) -> dict[str, tuple[Any, Any]]:
        """Keep what the numbers are computed with, and return what has changed, before and now, since the last time."""
        before = self._manifest()["surroundings"]
        if before != now:
            self._write_manifest(surroundings=dict(now))
        return {key: (before[key], value) for key, value in now.items() if key in before and before[key] != value}

    def finished(self, stage: str) -> bool:
        """Whether a stage is finished; its files are held against their checksums.

        Raises:
            CorruptFileError: a file of the stage is missing, truncated or altered.
        """
        record = self._manifest()["stages"].get(stage)
        if record is None:
            return False
        for name, expected in record["files"].items():
            path = self.path / name
            if not path.exists():
                raise CorruptFileError(
                    f"{path}, which the finished stage '{stage}' made, is missing; restore it, or start a new run"
                )
            if files.file_sha256(path) != expected:
                raise CorruptFileError(
                    f"{path} does not have the SHA-256 that stage '{stage}' wrote down: it was truncated or altered; "
                    f"restore it, or start a new run"
                )
        return True

    def require(self, stage: str, needed: Sequence[str]) -> None:
        """Check that the stages that `stage` builds on are finished.

        Raises:
            RunFolderError: one is not; the message says what to run first.
            CorruptFileError: one is, but its files are damaged.
        """
        for before in needed:
            if not self.finished(before):
                raise RunFolderError(
                    f"'{stage}' builds on '{before}', which is not finished in {self.path}; first run: "
                    f"jaxgeo {before} {self.path}"
                )

    def finish(self, stage: str, artefacts: Mapping[str, Mapping[str, Any] | str], seconds: float) -> None:
        """Write what a stage made, then its name into the manifest, then drop its rolling state.

        Args:
            stage: its name, and that of its folder.
            artefacts: by file name: a tree of arrays for `.safetensors`, JSON values for `.json`, text otherwise. A
                name that starts with "/" lies at the top of the run.
            seconds: what it took, all attempts together.
        """
        checksums = {}
        for name, content in artefacts.items():
            relative = name[1:] if name.startswith("/") else f"{stage}/{name}"
            path = self.path / relative
            files.make_folder(path.parent)
            if isinstance(content, str):
                checksums[relative] = files.write_bytes_atomically(path, content.encode())
            elif name.endswith(".safetensors"):
                checksums[relative] = files.save_tree(path, content)
            else:
                checksums[relative] = files.write_json_atomically(path, content)
        self.add_seconds(stage, seconds)
        self._write_manifest(stages=self._manifest()["stages"] | {stage: {"files": checksums}})
        self.drop_checkpoints(stage)

    def forget(self, stages: Sequence[str]) -> None:
        """Take stages out of the manifest, because what they build on is made anew."""
        before = self._manifest()["stages"]
        after = {name: record for name, record in before.items() if name not in stages}
        if len(after) < len(before):
            self._write_manifest(stages=after)
        for stage in stages:
            self.drop_checkpoints(stage)

    def tree(self, stage: str, name: str) -> dict[str, Any]:
        """Arrays that a finished stage made."""
        return files.load_tree(self.path / stage / f"{name}.safetensors")

    def json(self, stage: str, name: str) -> Any:
        """Values that a finished stage made."""
        return files.read_json(self.path / stage / f"{name}.json")

    def seconds(self) -> dict[str, float]:
        """Seconds spent in each stage so far; none where the clock's file is damaged, which costs no result."""
        try:
            spent = files.read_json(self.path / "timing.json")
            return {str(stage): float(seconds) for stage, seconds in spent.items()}
        except (CorruptFileError, RunFolderError, AttributeError, TypeError, ValueError):
            return {}

    def add_seconds(self, stage: str, seconds: float) -> None:
        """Count time that an attempt at a stage took, whether it finished or not."""
        spent = self.seconds()
        spent[stage] = spent.get(stage, 0.0) + seconds
        files.write_json_atomically(self.path / "timing.json", spent)

    def checkpoint(self, stage: str, part: str, every_s: float | None = None) -> "Checkpoint":
        """Rolling state of one part of a long stage."""
        return Checkpoint(
            self.path / _CHECKPOINTS / f"{stage}.{part}.safetensors",
            self.config.run.checkpoint_seconds if every_s is None else every_s,
            _digest(self.config),
        )

    def checkpoint_folder(self, stage: str, part: str) -> Path:
        """Where a part of a long stage that saves itself may keep its rolling state."""
        return self.path / _CHECKPOINTS / f"{stage}.{part}"

    def drop_checkpoints(self, stage: str) -> None:
        """Delete the rolling state of a stage."""
        for path in (self.path / _CHECKPOINTS).glob(f"{stage}.*"):
            if path.is_dir():
                shutil.rmtree(path, ignore_errors=True)
            else:
                with contextlib.suppress(OSError):
                    path.unlink()


class Checkpoint:
    """State of an unfinished computation, saved every few seconds, and at once when it is interrupted.

    Inside `with checkpoint:` hand each new state to `offer`. States are flat dicts of arrays.
    """

    def __init__(self, path: Path, every_s: float, settings: str) -> None:
        """Name the file and the settings that its states belong to; nothing is read or written yet."""
        self.path, self._every_s, self._note = path, every_s, {"settings": settings}
        self._saved_at = time.monotonic()
        self._unsaved: Mapping[str, Any] | None = None

    def load(self) -> dict[str, Any] | None:
        """The state that was saved last, if any.

        Raises:
            CorruptFileError: it is damaged, or belongs to other settings; the message names the file.
        """
        if not self.path.exists():
            return None
        arrays, note = files.load_arrays_and_note(self.path)
        if note != self._note:
            raise CorruptFileError(
                f"{self.path} was saved under other settings than those of config.json; delete it, and its stage "
                f"begins anew"
            )
        return arrays

    def offer(self, state: Mapping[str, Any], now: bool = False) -> None:
        """Take a new state; write it if the last one on disk is old, or `now`."""
        self._unsaved = state
        if now or time.monotonic() - self._saved_at >= self._every_s:
            self._save()

    def _save(self) -> None:
        if self._unsaved is not None:
            files.make_folder(self.path.parent)
            files.save_arrays(self.path, self._unsaved, self._note)
            self._unsaved, self._saved_at = None, time.monotonic()

    def __enter__(self) -> "Checkpoint":
        """Start the clock."""
        self._saved_at = time.monotonic()
        return self

    def __exit__(self, kind: type[BaseException] | None, value: BaseException | None, _: TracebackType | None) -> None:
        """Save what is not saved yet if the computation was broken off."""
        if kind is not None:
            # What broke it off may be the very disk that this needs: the first error is the one to tell.
            with contextlib.suppress(RunFolderError):
                self._save()


def read_config(path: Path) -> StudyConfig:
    """The configuration of a run, without locking it.

    Raises:
        RunFolderError: no run lies there, or it is from another version.
        CorruptFileError: its manifest or its configuration is damaged.
    """
    path = Path(path)
    if not path.is_dir():
        raise RunFolderError(f"{path} is no folder; name the folder of a run, or start one with: jaxgeo study")
    whole = (path / "manifest.json").exists()
    if not whole and not ((path / "config.json").exists() and _is_newborn(path)):
        raise RunFolderError(
            f"{path} is not a run of jaxgeo (it has no manifest.json); name the folder of a run, or start one with: "
            f"jaxgeo study --out FOLDER"
        )
    if whole and files.file_sha256(path / "config.json") not in _read_manifest(path)["config_sha256"]:
        raise CorruptFileError(
            f"{path / 'config.json'} does not have the SHA-256 that the run wrote down: it was truncated or altered; "
            f"restore it, or start a new run"
        )
    try:
        return from_dict(StudyConfig, files.read_json(path / "config.json"))
    except (ConfigError, AttributeError, TypeError) as error:
        raise CorruptFileError(f"{path / 'config.json'} was altered: {error}") from error


def _digest(config: StudyConfig) -> str:
    early = {part: values for part, values in to_dict(config).items() if part not in _LATE_PARTS}
    return hashlib.sha256(json.dumps(early, sort_keys=True).encode()).hexdigest()


def _read_manifest(path: Path) -> dict[str, Any]:
    manifest = files.read_json(path / "manifest.json")
    try:
        version, library = manifest["format"], manifest["library"]
        if version == FORMAT_VERSION:
            if not all(isinstance(record["files"], dict) for record in manifest["stages"].values()):
                raise TypeError("stages")
            if not isinstance(manifest["config_sha256"], list) or not isinstance(manifest["surroundings"], dict):
                raise TypeError("config_sha256")
    except (KeyError, TypeError, AttributeError) as error:
        raise CorruptFileError(f"{path / 'manifest.json'} was altered: {error} is not as written") from error
    if version != FORMAT_VERSION or library != jaxgeo.__version__:
        raise RunFolderError(
            f"{path} was made by jaxgeo {library} (format {version}), this is jaxgeo {jaxgeo.__version__} (format "
            f"{FORMAT_VERSION}), whose numbers may differ; go on with that version, or start a new run"
        )
    return manifest


def _is_newborn(path: Path) -> bool:
    """Whether nothing but a configuration lies there: what a process leaves that dies while it makes a run."""
    return all(
        entry.name in {locks.NAME, "config.json"} or entry.name.endswith(files.TEMPORARY_SUFFIX)
        for entry in path.iterdir()
    )
