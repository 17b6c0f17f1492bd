"""All questions by name. A new one is a module with Options and ask(subject, options), and an entry here."""

from resnet.analysis import signal
from resnet.analysis.answer import Question

QUESTIONS = {
    "signal": Question(signal.ask, signal.Options),
}
