"""Guidance sweep: distance against alignment over guidance scales, for the four settings of Table 1.

Reference: arXiv 2403.16530, Figure 3 (right), and section 4.3: s = 3 (the standard w = 4) is the elbow of the curve.

Command:
    ifuvit experiment guidance_sweep --scale openmoji --out guidance-sweep [--runs WHERE-TABLE1-PUT-ITS-RUNS]

Cost: the runs of `table1`, not trained again where both are given the same --runs; then seven evaluations a run. openmoji: about
an hour a run on two CPU cores. paper: seven times 30,000 images a run.

Expected: the elbow at w = 4. The figure's points are not given as numbers. Intermediate fusion's curves lie below and to the right of early
fusion's: at equal alignment the distance is lower.
"""

from ifuvit.experiments import table1
from ifuvit.experiments.definition import Experiment

EXPERIMENT = Experiment(
    name="guidance_sweep",
    title="Distance against alignment over guidance scales",
    settings=table1.EXPERIMENT.settings,
    guidance_scales=(1.0, 1.5, 2.0, 3.0, 4.0, 6.0, 8.0),
    source="arXiv 2403.16530, Table 1 for w = 2; Figure 3 (right), whose points have no numbers, for the rest",
    expected=table1.EXPERIMENT.expected,
    elbow=4.0,
)
