"""The models whose shapes the cases take, by name."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Model:
    """An AFNO network: fields of `channels` on `grid` points, tokens of `dim` on `patch` points each."""

    grid: tuple[int, int]
    patch: tuple[int, int]
    channels: int
    dim: int
    depth: int
    blocks: int
    hidden: int  # of the MLPs

    @property
    def tokens(self) -> tuple[int, int]:
        return self.grid[0] // self.patch[0], self.grid[1] // self.patch[1]

    @property
    def rows(self) -> int:
        """The tokens of one sample: rows of what a layer works on."""
        return self.tokens[0] * self.tokens[1]


#: NVlabs' FourCastNet and its 26 channel successor, the defaults of physicsnemo's AFNO, the network of our
#: default forecast, and one for a quick look.
MODELS = {
    "fourcastnet": Model((720, 1440), (8, 8), 20, 768, 12, 8, 3072),
    "fourcastnet-26": Model((720, 1440), (8, 8), 26, 768, 12, 8, 3072),
    "physicsnemo-default": Model((720, 1440), (16, 16), 2, 256, 4, 16, 1024),
    "shallow-water": Model((64, 128), (4, 8), 3, 192, 4, 4, 384),
    "small": Model((64, 128), (8, 8), 20, 64, 2, 8, 256),
}
QUICK = "small"
