module netaccel.io/cluster/pause

go 1.24.0
