"""The settings of the study of asynchrony. Each is a data set by its name: main.py --dataset asynchrony-lag4-hops2."""

from typing import Any, NamedTuple

from src.data.demo import make_demo
from src.data.streams import Setting, Splits

LAGS, HOPS = (0, 2, 4, 8), (1, 2)
CONTROLS: dict[str, dict[str, Any]] = {"drawn": {"drawn": True}, "rates": {"rates": (2, 3)}, "noise": {"noise": 0.6},
                                       "missing": {"missing": 0.2}}
SAMPLES = (4800, 600, 1000)  # train, valid, test: more than of the demo, since two hops are harder to learn


class Studied(NamedTuple):
    """A setting. Its lag is that of vision, in frames; audio has half of it, as in the demo."""

    hops: int
    lag: int
    control: str = ""  # the one of CONTROLS that is turned

    @property
    def name(self) -> str:
        """asynchrony-lag4-hops1, or asynchrony-lag4-hops1-noise"""
        return f"asynchrony-lag{self.lag}-hops{self.hops}" + (f"-{self.control}" if self.control else "")

    @property
    def title(self) -> str:
        """two hops, lag 4; or one hop, lag 4, noise"""
        return f"{self.words_of_hops}, lag {self.lag}" + (f", {self.control}" if self.control else "")

    @property
    def words_of_hops(self) -> str:
        return {1: "one hop", 2: "two hops"}[self.hops]

    def setting(self) -> Setting:
        return Setting(lags=(self.lag // 2, self.lag), hops=self.hops, samples=SAMPLES,
                       **CONTROLS.get(self.control, {}))

    def make(self, aligned: bool = False) -> Splits:
        """The streams; aligned ones have no lag."""
        return make_demo(aligned, self.setting())


STUDY = (*(Studied(hops, lag) for hops in HOPS for lag in LAGS), *(Studied(1, 4, control) for control in CONTROLS))
