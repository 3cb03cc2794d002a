"""Print what patch says of a small network of each host, with the errors of its probe. Run by ci/hosts.sh."""

import wxkernels
from tests import hosts

for name in (*hosts.NAMES, "nvlabs"):
    print(f"== {name}")
    print(wxkernels.patch(hosts.load(name).network()))
