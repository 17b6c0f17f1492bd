"""All claims, by the file they are in, in the order of the page."""

from resnet.analysis.claims import activations, depth, identity, information, outputs, trained
from resnet.analysis.claims.claim import Claim

GROUPS: dict[str, tuple[Claim, ...]] = {
    "identity": identity.CLAIMS,
    "depth": depth.CLAIMS,
    "activations": activations.CLAIMS,
    "information": information.CLAIMS,
    "outputs": outputs.CLAIMS,
    "trained": trained.CLAIMS,
}
