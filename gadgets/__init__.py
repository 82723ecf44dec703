"""The stream: from MRD messages to masks and images.

Their order, each importing only from those before it: errors; mrd; files and mask; pipeline;
steps; host and report; scanner and doctor; conformance; cli and external. `tests/test_rooms.py`
holds them to it. Training never comes in here.
"""
