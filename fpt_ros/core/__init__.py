"""The network and its mathematics. No ROS imports: everything here works in a notebook."""
