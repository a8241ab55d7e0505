"""The demo: raw behaviour in, private signals out, recommendations over gRPC and on a device, and a reviewer's report.

Reading guide
    generator      the seeded sample: 20,000 people with tastes, 2,000 films, six weeks
    titles         how the invented films get their names
    datasets.toml  what differs between datasets: columns, units, windows, bounds, budgets
    mapping        datasets.toml as frozen values
    prepare        input files → the project's data folder
    workspace      the project's folder: the template, and what the mapping decides in it
    project/       the template: hedgerow.toml and one signal a file; read this first
    recommender    a recommendation model that knows nothing but the serving client
    story          the acts after the releases: recommend over gRPC, rank on a device
    show           what a person reads on the terminal; layout, teller: tables and progress there
    cli            `hedgerow demo`
"""

__all__: tuple[str, ...] = ()
