"""A small scan, and the volume that comes out of it when nothing happens: made here without any stream.

In it every projection was taken in once and in order. One that is missing, doubled or in the wrong slices
changes the volume.
"""

from __future__ import annotations

import numpy as np

from ministream.kernels.zingers import THRESHOLD
from ministream.sources import ViewOrder, open_source
from ministream.stages.correction import Corrector
from ministream.stages.reconstruction import Reconstruction
from ministream.stages.zingers import ZingerRemover

ROWS, COLUMNS, PROJECTIONS = 6, 48, 240
SCAN = f"phantom:columns={COLUMNS},rows={ROWS},projections={PROJECTIONS},photons=100000"
CENTER = 26.5


def undisturbed_volume(refine: int = 1) -> np.ndarray:
    """The volume of `SCAN` with ``--center``, no stripe removal, one thread, and so many passes."""
    with open_source(SCAN) as source:
        corrector = Corrector(source.describe(), trimmed=True)
        views = np.zeros((PROJECTIONS, ROWS, COLUMNS), np.float32)
        remover = ZingerRemover(views, np.zeros(0), count=0, threshold=THRESHOLD)
        reconstruction = Reconstruction(
            algorithm="window-replay",
            slices=ROWS,
            columns=COLUMNS,
            projections=PROJECTIONS,
            rotation_center=CENTER,
            threads=1,
        )
        for frame in source.frames(ViewOrder.AS_MEASURED):
            attenuation = corrector.take(frame)
            if attenuation is not None:
                remover.clean(attenuation, frame.angle_rad, reconstruction.views)
                views[reconstruction.views] = attenuation
                # angles travel as float32 degrees
                angle_rad = np.radians(float(np.float32(np.degrees(frame.angle_rad))))
                reconstruction.add(float(angle_rad), attenuation)
        reconstruction.finish()
        for _ in range(refine):
            reconstruction.refine()
    return reconstruction.volume.copy()
