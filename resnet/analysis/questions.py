"""All questions by name. A new one is a module with Options and ask(subject, options), and an entry here."""

from resnet.analysis import (
    alignment,
    curvature,
    gates,
    landscape,
    lesion,
    paths,
    responses,
    rotation,
    shattering,
    signal,
    similarity,
    spectrum,
    telemetry,
    trainability,
)
from resnet.analysis.answer import Question

QUESTIONS = {
    "signal": Question(signal.ask, signal.Options),
    "telemetry": Question(telemetry.ask, telemetry.Options),
    "responses": Question(responses.ask, responses.Options),
    "rotation": Question(rotation.ask, rotation.Options),
    "alignment": Question(alignment.ask, alignment.Options),
    "lesion": Question(lesion.ask, lesion.Options),
    "paths": Question(paths.ask, paths.Options),
    "shattering": Question(shattering.ask, shattering.Options, shattering.SETS),
    "spectrum": Question(spectrum.ask, spectrum.Options),
    "landscape": Question(landscape.ask, landscape.Options),
    "curvature": Question(curvature.ask, curvature.Options),
    "similarity": Question(similarity.ask, similarity.Options),
    "gates": Question(gates.ask, gates.Options),
    "trainability": Question(trainability.ask, trainability.Options, trainability.SETS),
}
