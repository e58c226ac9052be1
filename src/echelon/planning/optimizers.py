from echelon.planning.cem import CEM
from echelon.planning.mppi import MPPI


def optimizer_of(config):
    return {"cem": CEM, "mppi": MPPI}[config.kind](config)
