"""A stand-in for the module `pynvml` with the cards it is given: NVML is a C library of a driver that is not here.

It raises pynvml's own errors, so that what is caught is what the real one raises.
"""

from dataclasses import dataclass, field
from types import SimpleNamespace

import pynvml

GIB = 2**30


@dataclass
class FakeCard:
    """A GPU; `fails` maps a function's name to the error that it raises for this card."""

    name: str = "NVIDIA GeForce RTX 3090"
    total: int = 24 * GIB
    used: int = GIB
    busy: int = 4
    capability: tuple[int, int] = (8, 6)
    temperature: int = 41
    milliwatts: int = 31_500
    uuid: str = "GPU-00000000-0000-0000-0000-000000000000"
    mig: "list[FakeCard] | None" = None
    fails: dict[str, int] = field(default_factory=dict)


NO_MIG = pynvml.NVML_ERROR_NOT_SUPPORTED


class FakeNvml:
    """The functions of pynvml that miStudio calls."""

    NVMLError = pynvml.NVMLError
    NVML_TEMPERATURE_GPU = pynvml.NVML_TEMPERATURE_GPU

    def __init__(self, *cards: FakeCard, init: int | None = None):
        self.cards = list(cards)
        self.init = init
        self.open = 0

    def nvmlInit(self):
        if self.init is not None:
            raise pynvml.NVMLError(self.init)
        self.open += 1

    def nvmlShutdown(self):
        self.open -= 1

    def nvmlDeviceGetCount(self):
        assert self.open
        return len(self.cards)

    def nvmlDeviceGetHandleByIndex(self, index):
        return self._of(self.cards[index], "nvmlDeviceGetHandleByIndex", self.cards[index])

    def nvmlDeviceGetMigMode(self, card):
        if card.mig is None:
            raise pynvml.NVMLError(NO_MIG)
        return [1, 1]

    def nvmlDeviceGetMaxMigDeviceCount(self, card):
        return 7

    def nvmlDeviceGetMigDeviceHandleByIndex(self, card, place):
        if place >= len(card.mig):
            raise pynvml.NVMLError(pynvml.NVML_ERROR_NOT_FOUND)
        return card.mig[place]

    def nvmlDeviceGetUUID(self, card):
        return self._of(card, "nvmlDeviceGetUUID", card.uuid)

    def nvmlDeviceGetMemoryInfo(self, card):
        found = SimpleNamespace(total=card.total, used=card.used, free=card.total - card.used)
        return self._of(card, "nvmlDeviceGetMemoryInfo", found)

    def nvmlDeviceGetUtilizationRates(self, card):
        return self._of(card, "nvmlDeviceGetUtilizationRates", SimpleNamespace(gpu=card.busy, memory=0))

    def nvmlDeviceGetName(self, card):
        return self._of(card, "nvmlDeviceGetName", card.name)

    def nvmlDeviceGetCudaComputeCapability(self, card):
        return self._of(card, "nvmlDeviceGetCudaComputeCapability", card.capability)

    def nvmlDeviceGetTemperature(self, card, sensor):
        assert sensor == pynvml.NVML_TEMPERATURE_GPU
        return self._of(card, "nvmlDeviceGetTemperature", card.temperature)

    def nvmlDeviceGetPowerUsage(self, card):
        return self._of(card, "nvmlDeviceGetPowerUsage", card.milliwatts)

    def _of(self, card, name, value):
        assert self.open, "asked before nvmlInit or after nvmlShutdown"
        if name in card.fails:
            raise pynvml.NVMLError(card.fails[name])
        return value
