"""All questions by name. A new one is a module with Options and ask(subject, options), and an entry here."""

from resnet.analysis import curvature, landscape, shattering, signal, similarity, spectrum, trainability
from resnet.analysis.answer import Question

QUESTIONS = {
    "signal": Question(signal.ask, signal.Options),
    "shattering": Question(shattering.ask, shattering.Options),
    "spectrum": Question(spectrum.ask, spectrum.Options),
    "landscape": Question(landscape.ask, landscape.Options),
    "curvature": Question(curvature.ask, curvature.Options),
    "similarity": Question(similarity.ask, similarity.Options),
    "trainability": Question(trainability.ask, trainability.Options),
}
