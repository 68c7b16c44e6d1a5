"""An area detector that writes real files."""

import threading
import time
import uuid
from collections import deque
from collections.abc import Callable, Iterator
from datetime import datetime
from pathlib import Path
from typing import Any, cast

import h5py
import numpy as np
from event_model.documents import StreamDatum, StreamRange, StreamResource
from ophyd import Component, Device, DeviceStatus, Signal

_DATASET = "/entry/data/data"  # where areaDetector's HDF5 plugin puts its frames


class ImageDetector(Device):
    """A simulated area detector: one HDF5 file per staging, one frame per trigger.

    The file is written in HDF5's single-writer-multiple-readers mode, as areaDetector does, so that it can be
    read while the run goes on. Documents refer to it by ``stream_resource`` and ``stream_datum``; events hold
    only ``<name>_total``, the sum over the frame.

    Parameters
    ----------
    name : str
        Name of the device and of its frames' data key.
    directory : pathlib.Path
        Directory that files go to, in one folder a day; made when the first frame is taken.
    frame : callable
        Returns the next frame, an array of ``shape`` that fits uint16 [counts].
    shape : tuple of int
        Height and width of a frame [pixels].
    """

    total = Component(Signal, value=0, kind="hinted")
    exposure_time = Component(Signal, value=0.0, kind="config")

    def __init__(
        self,
        *,
        name: str,
        directory: Path,
        frame: Callable[[], np.ndarray],
        shape: tuple[int, int] = (64, 64),
        **kwargs: Any,
    ):
        super().__init__(name=name, **kwargs)
        self._directory = directory
        self._frame = frame
        self._shape = shape
        self._dataset: h5py.Dataset | None = None
        self._resource_uid = ""
        self._frames = 0
        self._documents: deque[tuple[str, StreamResource | StreamDatum]] = deque()

    def trigger(self) -> DeviceStatus:
        """Take one frame and append it to the file."""
        status = DeviceStatus(self)
        threading.Thread(target=self._expose, args=(status,), name=f"{self.name}-exposure", daemon=True).start()
        return status

    def describe(self) -> dict[str, Any]:  # type: ignore[override]  # ophyd annotates it with type variables
        """Describe what events hold, and the frames that they do not."""
        description = cast("dict[str, Any]", super().describe())
        description[self.name] = {
            "source": f"SIM:{self.name}",
            "dtype": "array",
            "dtype_numpy": "<u2",
            "shape": list(self._shape),
            "external": "STREAM:",
        }
        return description

    def get_index(self) -> int:
        """Return how many frames the file holds."""
        return self._frames

    def collect_asset_docs(self, index: int | None = None) -> Iterator[tuple[str, StreamResource | StreamDatum]]:
        """Yield the documents about frames taken since the last call."""
        while self._documents:
            yield self._documents.popleft()

    def unstage(self) -> list[object]:
        """Close the file."""
        if self._dataset is not None:
            self._dataset.file.close()
        self._dataset = None
        self._frames = 0
        self._documents.clear()
        return super().unstage()

    def _expose(self, status: DeviceStatus) -> None:
        try:
            time.sleep(cast("float", self.exposure_time.get()))
            self._append(np.asarray(self._frame(), dtype="<u2"))
        except Exception as error:  # noqa: BLE001 - the status takes it to the RunEngine
            status.set_exception(error)
        else:
            status.set_finished()

    def _append(self, frame: np.ndarray) -> None:
        dataset = self._dataset = self._dataset or self._open()
        dataset.resize(self._frames + 1, axis=0)
        dataset[self._frames] = frame
        dataset.flush()
        self.total.put(int(frame.sum()))
        self._documents.append(("stream_datum", self._stream_datum()))
        self._frames += 1

    def _open(self) -> h5py.Dataset:
        self._resource_uid = str(uuid.uuid4())
        path = self._directory.absolute() / f"{datetime.now():%Y-%m-%d}" / f"{self.name}_{self._resource_uid}.h5"
        self._directory.mkdir(parents=True, exist_ok=True)
        # As open to others as the directory that it was told to write to.
        mode = self._directory.stat().st_mode & 0o777
        path.parent.mkdir(mode=mode, exist_ok=True)
        path.touch(mode=mode & 0o666, exist_ok=False)
        file = h5py.File(path, "w", libver="latest")
        dataset = file.create_dataset(
            _DATASET,
            shape=(0, *self._shape),
            maxshape=(None, *self._shape),
            chunks=(1, *self._shape),
            dtype="<u2",
        )
        file.swmr_mode = True
        self._documents.append(("stream_resource", self._stream_resource(path)))
        return dataset

    def _stream_resource(self, path: Path) -> StreamResource:
        return StreamResource(
            uid=self._resource_uid,
            data_key=self.name,
            mimetype="application/x-hdf5",
            # Not Path.as_uri(): Tiled takes the path as it stands and would not undo percent signs.
            uri=f"file://localhost{path.as_posix()}",
            parameters={"dataset": _DATASET, "chunk_shape": [1, *self._shape], "swmr": True},
        )

    def _stream_datum(self) -> StreamDatum:
        return StreamDatum(
            uid=f"{self._resource_uid}/{self._frames}",
            stream_resource=self._resource_uid,
            descriptor="",  # filled in by the RunEngine, as seq_nums
            indices=StreamRange(start=self._frames, stop=self._frames + 1),
            seq_nums=StreamRange(start=0, stop=0),
        )
