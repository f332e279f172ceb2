"""The tensor networks of the linear methods, one file each."""
