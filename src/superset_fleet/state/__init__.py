"""What the fleet knows: in Redis, in the table `query`, in each machine's facts file."""
