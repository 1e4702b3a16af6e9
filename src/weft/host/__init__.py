"""A frozen network with sites: finding them, the low-rank kernels, the forward under a Mixture."""

from weft.host.dropout import Dropout
from weft.host.fitted import compare_copies, fitted, targets_for
from weft.host.host import Host
from weft.host.pool import Pool
from weft.host.sites import short_names, sites_of

__all__ = ["Dropout", "Host", "Pool", "compare_copies", "fitted", "short_names", "sites_of", "targets_for"]
