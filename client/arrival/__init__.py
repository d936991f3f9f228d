"""How studies come in: gateway, intake, index, completeness, priors."""
