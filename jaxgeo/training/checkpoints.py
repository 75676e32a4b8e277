"""Checkpoints of a training run by Orbax: each is whole or not there, and training goes on from the last one.

A checkpoint is a folder named by its step. Orbax writes it under another name and renames it when all is on the disk:
a process that is killed at any moment leaves the former ones as they were.
"""

import json
from pathlib import Path
from types import TracebackType
from typing import Any

import jax
import jax.numpy as jnp
import orbax.checkpoint as ocp
from jaxtyping import PyTree

from jaxgeo import files
from jaxgeo.errors import CorruptFileError, RunFolderError

_STATE, _NOTES = "state", "notes"


class Checkpoints:
    """The checkpoints in one folder; for `with`, which waits for what is still being written.

    States are trees of arrays; typed PRNG keys in them are kept as such. `notes` are JSON values beside a state.
    """

    def __init__(self, folder: Path, keep: int = 2) -> None:
        """Open, or make, the folder.

        Args:
            folder: of the checkpoints alone.
            keep: how many are kept; older ones are deleted.

        Raises:
            RunFolderError: the folder cannot be made.
        """
        self.folder = files.make_folder(Path(folder)).absolute()
        options = ocp.CheckpointManagerOptions(
            max_to_keep=keep, enable_async_checkpointing=False, cleanup_tmp_directories=True
        )
        self._manager = ocp.CheckpointManager(self.folder, options=options)

    def __enter__(self) -> "Checkpoints":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._manager.close()

    @property
    def latest_step(self) -> int | None:
        """Step of the newest checkpoint, None where there is none."""
        return self._manager.latest_step()

    def save(self, step: int, state: PyTree, notes: dict[str, Any]) -> None:
        """Write a checkpoint; it is on the disk when this returns.

        Raises:
            RunFolderError: the disk is full or the folder cannot be written; earlier checkpoints are untouched.
        """
        try:
            self._manager.save(
                step,
                args=ocp.args.Composite(
                    **{_STATE: ocp.args.StandardSave(_without_keys(state)), _NOTES: ocp.args.JsonSave(notes)}
                ),
            )
            self._manager.wait_until_finished()
        except OSError as error:
            raise files.run_folder_error(error, self.folder / str(step)) from error
        except ValueError as error:  # what the storage library below Orbax says of a full disk
            raise RunFolderError(
                f"the checkpoint of step {step} cannot be written to {self.folder} ({_first_line(error)}); earlier "
                f"ones are still there"
            ) from error

    def latest_notes(self) -> dict[str, Any] | None:
        """Notes of the newest checkpoint alone, or None where there is none.

        Raises:
            CorruptFileError: they cannot be read.
        """
        step = self.latest_step
        if step is None:
            return None
        try:
            found = self._manager.restore(step, args=ocp.args.Composite(**{_NOTES: ocp.args.JsonRestore()}))
        except (OSError, ValueError, KeyError, TypeError, json.JSONDecodeError) as error:
            raise self._unreadable(step, error) from error
        return found[_NOTES]

    def _unreadable(self, step: int, error: Exception) -> CorruptFileError:
        return CorruptFileError(
            f"the checkpoint {self.folder / str(step)} cannot be read ({_first_line(error)}): it is damaged or of "
            f"other settings; delete that folder to go on from the one before, or begin another run"
        )

    def restore(self, like: PyTree) -> tuple[PyTree, dict[str, Any]] | None:
        """State and notes of the newest checkpoint, or None where there is none.

        Args:
            like: a state of the same structure, shapes and dtypes; arrays come back as its are placed.

        Raises:
            CorruptFileError: the checkpoint is damaged, or belongs to another network or optimiser.
        """
        step = self.latest_step
        if step is None:
            return None
        plain = _without_keys(like)
        try:
            found = self._manager.restore(
                step,
                args=ocp.args.Composite(**{_STATE: ocp.args.StandardRestore(plain), _NOTES: ocp.args.JsonRestore()}),
            )
        except (OSError, ValueError, KeyError, TypeError, json.JSONDecodeError) as error:
            raise self._unreadable(step, error) from error
        return _with_keys(found[_STATE], like), found[_NOTES]


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:200]


def _is_key(leaf: Any) -> bool:
    return isinstance(leaf, jax.Array) and jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key)


def _without_keys(state: PyTree) -> PyTree:
    return jax.tree.map(lambda leaf: jax.random.key_data(leaf) if _is_key(leaf) else leaf, state)


def _with_keys(found: PyTree, like: PyTree) -> PyTree:
    return jax.tree.map(
        lambda leaf, wanted: (
            jax.random.wrap_key_data(leaf, impl=jax.random.key_impl(wanted)) if _is_key(wanted) else leaf
        ),
        found,
        like,
    )
