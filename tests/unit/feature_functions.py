"""Feature functions as users write them, right and wrong."""


def doubled(rows):
    return rows.assign(x_doubled=rows["x"] * 2)


def that_drops_rows(rows):
    return rows.iloc[1:]


def that_changes_x(rows):
    return rows.assign(x=0.0)


def that_fails(rows):
    return rows.assign(z=1 / 0)


def that_makes_dummies(rows):
    import pandas as pd

    return pd.concat([rows, pd.get_dummies(rows["x"], prefix="c")], axis=1)


def that_divides_by_zero(rows):
    return rows.assign(ratio=rows["x"] / (rows["x"] - 2))


def of_the_largest(rows):
    """It looks the same for the sample and for a single row of it."""
    return rows.assign(**({"big": 1.0} if rows["x"].max() > 10 else {"x_small": rows["x"]}))


def of_two_types(rows):
    return rows.assign(z="text" if rows["x"].max() > 10 else 1.0)


def of_dates(rows):
    import pandas as pd

    return rows.assign(date=(pd.Timestamp("2024-01-31") + pd.to_timedelta(rows["x"], "D")).dt.date)


def of_durations(rows):
    import pandas as pd

    return rows.assign(gap=pd.to_timedelta(rows["x"], "D"))


def of_times_of_day(rows):
    import datetime

    return rows.assign(at=datetime.time(8))


def of_periods(rows):
    import pandas as pd

    return rows.assign(period=pd.Period("2024-01"))


def of_mixed_values(rows):
    return rows.assign(z=["text", *[1] * (len(rows) - 1)])


def that_appends_to_words(rows):
    return rows.assign(words=rows["word"] + "!")
