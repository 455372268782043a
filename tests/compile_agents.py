"""Run as a program before the tests, as tests/compile_features.py: compile the rollouts of all agents once."""

from tests.agents import SHORT, TRAIN, VALID, build_agent, simulate_market
from tests.params import BLOCKS

if __name__ == "__main__":
    samples, _ = simulate_market(signal=0.3, seed=0)
    for name in [name for name, (family, _) in BLOCKS.items() if family == "agents"]:
        build_agent(name, samples, **SHORT).fit(samples, TRAIN, VALID)
