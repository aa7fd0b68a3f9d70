"""Checkpoints of a base's training: the files of all ranks after an epoch, kept until the next ones are there."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from hydra_ray import storage
from hydra_ray.scorer.base.ranks import gathered, own_rank
from hydra_ray.temporary import temporary_folder

_LAST = "last.json"
"""Names the last checkpoint's epoch and files. It is written when all of them are there."""
_SHAPE: storage.Shape = {"epoch": int, "files": list}


class Checkpoints:
    """Checkpoints of one base below a location that all ranks reach."""

    def __init__(self, location: str) -> None:
        self._location = location
        self._last = storage.join(location, _LAST)

    def keep(self, epoch: int, save: Callable[[str], None]) -> None:
        """Store the checkpoint after an epoch, in place of the one before; all ranks call it at the same time.

        Args:
            save: writes this rank's files to a local folder.
        """
        with temporary_folder("checkpoint") as folder:
            save(folder)
            own = storage.list_tree(folder)
            storage.copy_files(folder, self._folder(epoch), own)
        files = [name for names in gathered(own) for name in names]
        if own_rank() == 0:
            storage.write_json(self._last, {"epoch": epoch, "files": files})
            storage.remove_folder(self._folder(epoch - 1))

    @contextmanager
    def last(self) -> Iterator[str | None]:
        """Yield a local folder with the files of all ranks after the last epoch; None where there is no checkpoint."""
        if not storage.exists(self._last):
            yield None
            return
        found = storage.read_json(self._last, _SHAPE)
        with temporary_folder("checkpoint") as folder:
            storage.copy_files(self._folder(found["epoch"]), folder, found["files"])
            yield folder

    def _folder(self, epoch: int) -> str:
        return storage.join(self._location, f"epoch-{epoch}")
