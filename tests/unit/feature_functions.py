"""Feature functions as users write them, right and wrong."""


def doubled(rows):
    return rows.assign(x_doubled=rows["x"] * 2)


def that_drops_rows(rows):
    return rows.iloc[1:]


def that_changes_x(rows):
    return rows.assign(x=0.0)


def that_fails(rows):
    return rows.assign(z=1 / 0)
