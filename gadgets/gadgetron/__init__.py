"""What is known of the C++ Gadgetron, and of no other reconstruction: its XML, the names of its
classes and properties, the folders that it reads.
"""
