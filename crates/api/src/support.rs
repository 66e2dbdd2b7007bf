//! What upstream has and Waymark does not enforce yet: one table.
