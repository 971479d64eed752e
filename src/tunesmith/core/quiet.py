"""What libraries say about their own future is for those who build on them, not for those who use a command."""

from __future__ import annotations

import logging
import sys
import warnings

ABOUT_LATER = (FutureWarning, DeprecationWarning, PendingDeprecationWarning)


def hush_libraries() -> None:
    """Leave out what libraries warn of among themselves; what our code causes is still shown.

    Whoever has asked Python for warnings (`-W`, PYTHONWARNINGS) gets them.
    """
    if sys.warnoptions:
        return
    logging.getLogger("bitsandbytes").setLevel(logging.ERROR)  # it names kernels that nobody has asked for
    for kind in ABOUT_LATER:
        warnings.filterwarnings("ignore", category=kind)
        warnings.filterwarnings("default", category=kind, module=r"tunesmith(\.|$)")
