"""What every gRPC server here shares: life cycle, interceptors, errors, auth, paging."""
