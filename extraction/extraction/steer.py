"""Does the model use the direction? Generate with the vector added in several doses, and see what changes.

python -m extraction.steer --experiment my_exp --trait refusal --coefficients 0.15,0.3
"""

from extraction.cli import run_command
from extraction.steering.settings import Settings


def steer(settings: Settings) -> None:
    """Check causally what a vector does."""
    from extraction.steering.causal_check import run_causal_check

    run_causal_check(settings)


if __name__ == "__main__":
    run_command(steer)
