"""What is known of the C++ Gadgetron and of no other server.

Its XML, the names of its classes and properties, the folders in which it looks for them.
"""
