from __future__ import annotations

from tests.host.conftest import grub_image

__all__ = ["grub_image"]
