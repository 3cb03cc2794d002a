"""Print what patch says of a small network of each host, with the errors of its probe. Run by ci/hosts.sh."""

import torch

import wxkernels
from tests import hosts

x = torch.randn(2, 3, 48, 96, generator=torch.Generator().manual_seed(0))
for name in (*hosts.NAMES, "nvlabs"):
    for precision in ("same", "bf16", "int8"):
        print(f"== {name}, precision={precision!r}")
        print(wxkernels.patch(hosts.load(name).network(), precision=precision, calibration=[x]))
