"""What is used of Optuna's inside, all of it here; a test fails where Optuna moves it."""

import optuna
from optuna.trial import FrozenTrial


def trial_again(study: optuna.Study, frozen: FrozenTrial) -> optuna.Trial:
    """A trial that was begun, in another process than the one that asked for it.

    Optuna gives a Trial, which can report and be asked for more, to who asks for one, and the
    number that its storage has for it to nobody. The study's sampler has its say once more.
    """
    return optuna.Trial(study, frozen._trial_id)
