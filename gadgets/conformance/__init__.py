"""Is a sequence or a reconstruction of somebody else true to adaptive-mask/1? Rule by rule.

Vendors come in by `mnet conformance`. Nothing else imports it, so that it is loaded for its own
command only.
"""
