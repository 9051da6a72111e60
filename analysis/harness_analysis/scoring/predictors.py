"""Every predictor by the name that commands take."""

from collections.abc import Mapping

from harness_analysis.baselines import trees
from harness_analysis.baselines.kernelsums import KernelSums
from harness_analysis.baselines.llmcarbon import LlmCarbon
from harness_analysis.baselines.whitebox import WhiteBox
from harness_analysis.gnn.member import Settings
from harness_analysis.gnn.ours import Ours
from harness_analysis.gnn.paper import Nnlqp, PaperSettings, PaperTwoGnn
from harness_analysis.scoring.pooled import Make

OURS: Mapping[str, Make] = {"ours": Ours}
PAPER: Mapping[str, Make] = {"llmco2": PaperTwoGnn}
"""Needs the prefill's energy, which the measured public data do not have."""
BASELINES: Mapping[str, Make] = {
    "white-box": WhiteBox,
    "boosting-white-box": trees.corrected_white_box,
    "boosting-residual": trees.residual_boosting,
    "boosting-physical": trees.physical_boosting,
    "boosting-raw": trees.raw_boosting,
    "forest-residual": trees.residual_forest,
    "forest-raw": trees.raw_forest,
    "deepen": trees.deepen,
    "nn-meter": KernelSums,
    "nnlqp": Nnlqp,
    "llmcarbon": LlmCarbon,
}
ABLATION: Mapping[str, Make] = {
    "ours": Ours,
    "ours, not chained": lambda: Ours(Settings(chained=False), "ours, not chained"),
    "ours, phases not apart": lambda: Ours(Settings(apart=False), "ours, phases not apart"),
    "ours, no estimate": lambda: Ours(Settings(estimate=False), "ours, no estimate"),
    "ours, no roofline": lambda: Ours(Settings(estimate=False, roofline=False), "ours, no roofline"),
    "llmco2": PaperTwoGnn,
    "llmco2, not chained": lambda: PaperTwoGnn(PaperSettings(chained=False), "LLMCO2, not chained"),
    "llmco2, phases not apart": lambda: PaperTwoGnn(PaperSettings(apart=False), "LLMCO2, phases not apart"),
    "llmco2, no roofline": lambda: PaperTwoGnn(PaperSettings(roofline=False), "LLMCO2, no roofline"),
}
"""What the parts of the 2-GNNs are worth: each of these leaves one out. Without the roofline there is no estimate
either, which is made of the same times."""
