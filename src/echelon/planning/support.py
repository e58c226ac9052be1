def support_distance(actions, prior):
    return 0
