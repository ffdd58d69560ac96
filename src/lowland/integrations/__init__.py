"""Sharpness-aware training inside the usual trainers.

Importing this package loads none of them: `lowland.integrations.transformers`,
`lowland.integrations.lightning` and `lowland.integrations.fabric` each need the library that they
are named after. A plain loop and Accelerate need nothing from here.
"""

from lowland.integrations.wrapped import at_perturbed_weights, report_skipped, sharpness_aware

__all__ = ["at_perturbed_weights", "report_skipped", "sharpness_aware"]
